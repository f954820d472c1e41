"""Accuracies with honest intervals, and benchmark files that are refused by line."""

from __future__ import annotations

import json
import math

import pytest
from sample_material import SAMPLE

from tempo.core.records import Outcome, Sample
from tempo.evaluation.benchmark import (
    group_outcomes,
    is_text_right,
    read_samples,
    score,
    score_groups,
    summarize,
)

LIKELY, UNLIKELY = -1.0, -9.0


def outcome(name, *, right, aspect="direction", form="yes_no", group=""):
    likelihoods = (LIKELY, UNLIKELY) if right else (UNLIKELY, LIKELY)
    return Outcome(id=name, aspect=aspect, format=form, answer=0, log_likelihoods=likelihoods, group=group)


def outcomes(num_right, num_wrong, **fields):
    flags = [True] * num_right + [False] * num_wrong
    return [outcome(f"{fields}-{i}", right=right, **fields) for i, right in enumerate(flags)]


@pytest.mark.parametrize(
    ("likelihoods", "answer", "is_right"),
    [
        ((-1.0, -2.0), 0, True),
        ((-1.0, -2.0), 1, False),
        ((-1.0, -1.0), 0, False),
        ((-3.0, -2.0, -1.0), 2, True),
        ((-3.0, -1.0, -1.0), 2, False),
        ((math.nan, -1.0), 0, False),
        ((-1.0, math.nan), 0, False),
        ((-math.inf, -math.inf), 0, False),
    ],
)
def test_sample_is_right_only_if_its_option_is_likelier_than_every_other(likelihoods, answer, is_right):
    made = Outcome(id="a", aspect="speed", format="yes_no", answer=answer, log_likelihoods=likelihoods)
    assert made.is_right is is_right


def test_score_counts_and_rounds():
    assert score(outcomes(1, 2)) == {"accuracy": 0.3333, "num_samples": 3, "interval": [0.0615, 0.7923]}


def test_score_of_nothing_is_unknown_and_not_zero():
    assert score([]) == {"accuracy": None, "num_samples": 0, "interval": [0.0, 1.0]}


def test_group_is_right_only_if_all_of_it_is_wherever_its_samples_stand():
    rows = [
        outcome("a0", right=True, group="a"),
        outcome("b0", right=True, group="b"),
        outcome("a1", right=True, group="a"),
        outcome("b1", right=False, group="b"),
        outcome("c0", right=False, group="c"),
        outcome("c1", right=False, group="c"),
        outcome("d0", right=True, group="d"),
        outcome("d1", right=True, group="d"),
    ]
    scored = score_groups(group_outcomes(rows), is_text_right)
    assert (scored["accuracy"], scored["num_samples"]) == (0.5, 4)


def test_constant_answer_scores_no_conflicting_group():
    """Always the first option: half of the samples, none of the groups."""
    rows = [outcome(f"{g}-{i}", right=i == 0, group=g) for g in "abcdef" for i in (0, 1)]
    assert score(rows)["accuracy"] == 0.5
    assert score_groups(group_outcomes(rows), is_text_right)["accuracy"] == 0


@pytest.mark.parametrize(
    ("first", "second", "scores"),
    [
        ((-1.0, -2.0), (-2.0, -1.0), (1, 1, 1)),
        # The first caption is likelier whatever is shown: each still prefers its video.
        ((-1.0, -5.0), (-2.0, -4.0), (0, 1, 0)),
        # Each video finds its caption, but the second video makes both likelier.
        ((-5.0, -6.0), (-2.0, -1.0), (1, 0, 0)),
        ((-2.0, -1.0), (-1.0, -2.0), (0, 0, 0)),
        ((-1.0, -2.0), (-1.0, -0.5), (1, 0, 0)),
    ],
    ids=["both", "video only", "text only", "none", "a tie is wrong"],
)
def test_text_video_and_group_score_of_two_videos_and_two_captions(first, second, scores):
    rows = [
        Outcome(
            id=str(i),
            aspect="conflicting",
            format="",
            answer=i,
            log_likelihoods=ll,
            group="g",
        )
        for i, ll in enumerate((first, second))
    ]
    summary = summarize(rows)
    found = tuple(summary[f"{name}_score"]["accuracy"] for name in ("text", "video", "group"))
    assert found == scores


def test_summary_keeps_static_questions_out_of_the_temporal_accuracy():
    rows = [
        *outcomes(3, 1, aspect="direction", form="yes_no"),
        *outcomes(0, 2, aspect="speed", form="multiple_choice"),
        *outcomes(4, 0, aspect="static", form="multiple_choice"),
        *outcomes(1, 0, aspect="conflicting", form="caption_matching", group="g"),
    ]
    summary = summarize(rows)
    assert (summary["accuracy"], summary["num_samples"]) == (round(4 / 7, 4), 7)
    assert (summary["static"]["accuracy"], summary["static"]["num_samples"]) == (1.0, 4)
    assert (summary["group_score"]["accuracy"], summary["group_score"]["num_samples"]) == (1.0, 1)
    assert {name: part["accuracy"] for name, part in summary["by_aspect"].items()} == {
        "conflicting": 1.0,
        "direction": 0.75,
        "speed": 0.0,
        "static": 1.0,
    }
    assert {name: part["num_samples"] for name, part in summary["by_format"].items()} == {
        "caption_matching": 1,
        "multiple_choice": 2,
        "yes_no": 4,
    }
    assert json.loads(json.dumps(summary)) == summary


def test_summary_of_nothing_claims_nothing():
    summary = summarize([])
    assert (summary["accuracy"], summary["static"]["accuracy"], summary["by_aspect"]) == (None, None, {})


def test_summary_does_not_depend_on_the_order_of_outcomes():
    rows = [*outcomes(3, 1, group="a"), *outcomes(2, 5, aspect="speed", group="b"), *outcomes(1, 1)]
    assert summarize(rows) == summarize(rows[::-1])


@pytest.fixture
def write(tmp_path):
    def lines(*texts):
        path = tmp_path / "benchmark.jsonl"
        path.write_bytes(b"".join(t if isinstance(t, bytes) else t.encode() for t in texts))
        return path

    return lines


def line(**changes):
    return json.dumps({**SAMPLE, **changes}, ensure_ascii=False) + "\n"


def test_samples_are_read_in_order(write):
    pair = ({"id": "v/1", "group": "g", "answer": 1}, {"id": "v/2", "group": "g", "answer": 0})
    samples = read_samples(write(line(), *(line(**one) for one in pair)))
    assert samples == [Sample(**SAMPLE), *(Sample(**{**SAMPLE, **one}) for one in pair)]


def test_last_line_may_lack_its_newline(write):
    assert len(read_samples(write(line(), line(id="v/1").rstrip()))) == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_separator_inside_a_question_does_not_end_the_line(write, separator):
    """They are legal in JSON, and common in texts that were copied from web pages."""
    question = f"Where{separator}to?"
    (sample,) = read_samples(write(line(question=question)))
    assert sample.question == question


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("nonsense\n", ["JSON"]),
        ("\n", []),
        ("[1]\n", []),
        (line(answer="left"), ["answer"]),
        (line(question=None), ["question"]),
        (line(colour="red"), ["colour"]),
        (line(answer=2), ["answer 2", "2 options"]),
        (line(answer=-1), ["answer -1", "2 options"]),
        (line(options=[], answer=0), ["0 options"]),
    ],
)
def test_line_that_is_no_sample_is_named_with_its_fault(write, second, words):
    path = write(line(), second)
    with pytest.raises(ValueError, match="line 2") as caught:
        read_samples(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_sample_with_a_single_option_is_refused(write):
    """It could not be answered wrongly."""
    with pytest.raises(ValueError, match="line 1"):
        read_samples(write(line(options=["Left."], answer=0)))


def test_two_samples_with_one_id_are_refused(write):
    """Outcomes are kept by id: in a run that goes on after a kill the second would not be asked."""
    with pytest.raises(ValueError, match=r"line 2.*v/0"):
        read_samples(write(line(), line()))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({}, r"line 2: group 'g' has one sample"),
        ({"group": "g"}, r"line 3: answer 1 of group 'g' is that of line 2"),
        ({"group": "g", "answer": 0, "options": ["Right.", "Left."]}, r"line 3: group 'g' has other options"),
    ],
)
def test_group_that_is_none_is_refused_by_line(write, second, words):
    """It would be scored without being asked: one caption, or two that are right for the same reason."""
    path = write(line(), line(id="v/1", group="g"), line(id="v/2", **second))
    with pytest.raises(ValueError, match=words) as caught:
        read_samples(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'{"id": "\xe9"}\n'])
def test_file_in_another_encoding_is_refused_by_name(write, content):
    path = write(content)
    with pytest.raises(ValueError, match=r"benchmark\.jsonl"):
        read_samples(path)


def test_file_that_is_not_there_is_refused_by_key_and_name(tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.benchmark .*none\.jsonl cannot be read"):
        read_samples(tmp_path / "none.jsonl")
