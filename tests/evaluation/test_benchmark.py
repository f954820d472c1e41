"""Benchmark files and scores of outcomes."""

from __future__ import annotations

import json
import math

import pytest
from sample_material import SAMPLE

from tempo.core.records import Outcome, Sample
from tempo.evaluation.evaluate import benchmark_items, read_samples

LIKELY, UNLIKELY = -1.0, -9.0


def outcome(name, *likelihoods, answer=0, aspect="direction", group="", video=""):
    about = {"video": video or name, "aspect": aspect, "format": "yes_no", "group": group}
    return Outcome(id=name, answer=answer, log_likelihoods=likelihoods, **about)


def outcomes(num_right, num_wrong, aspect):
    rows = [(LIKELY, UNLIKELY)] * num_right + [(UNLIKELY, LIKELY)] * num_wrong
    return [outcome(f"{aspect}-{i}", *row, aspect=aspect) for i, row in enumerate(rows)]


def values_of(rows):
    return {name: [item.value for item in own] for name, own in benchmark_items(rows).items() if own}


@pytest.mark.parametrize(
    ("likelihoods", "answer", "is_right"),
    [
        ((-1.0, -2.0), 0, True),
        ((-1.0, -2.0), 1, False),
        ((-1.0, -1.0), 0, False),
        ((-3.0, -2.0, -1.0), 2, True),
        ((-3.0, -1.0, -1.0), 2, False),
        ((-1.0, math.nan), 0, False),
        ((-math.inf, -math.inf), 0, False),
    ],
)
def test_the_likeliest_option_wins_and_a_tie_is_wrong(likelihoods, answer, is_right):
    assert values_of([outcome("a", *likelihoods, answer=answer)])["direction"] == [is_right]


@pytest.mark.parametrize(
    ("first", "second", "scores"),
    [
        ((-1.0, -2.0), (-2.0, -1.0), (1, 1, 1)),
        # The first caption is likelier with both videos, as for a model that ignores the video.
        ((-1.0, -5.0), (-1.0, -5.0), (0, 0, 0)),
        # The first caption is likelier with both videos; each caption prefers its own video.
        ((-1.0, -5.0), (-2.0, -4.0), (0, 1, 0)),
        # Each video prefers its own caption; both captions prefer the second video.
        ((-5.0, -6.0), (-2.0, -1.0), (1, 0, 0)),
        ((-2.0, -1.0), (-1.0, -2.0), (0, 0, 0)),
        ((-1.0, -2.0), (-1.0, -0.5), (1, 0, 0)),
        ((-1.0, -1.0), (-2.0, -0.5), (0, 1, 0)),
    ],
    ids=["both", "constant", "video only", "text only", "none", "a tie of videos", "a tie of captions"],
)
def test_text_video_and_group_score_of_two_conflicting_videos(first, second, scores):
    values = values_of([outcome(str(i), *row, answer=i, group="g") for i, row in enumerate((first, second))])
    assert tuple(values[f"conflicting, {name} score"] for name in ("text", "video", "group")) == tuple(
        [score] for score in scores
    )


def test_every_figure_has_its_items_and_separate_aspects_do_not_count_as_temporal():
    known = {"aspect": "conflicting", "group": "g"}
    rows = [
        *outcomes(1, 1, aspect="direction"),
        *outcomes(0, 2, aspect="event_order"),
        *outcomes(3, 1, aspect="static"),
        *outcomes(2, 0, aspect="first_of_two"),
        outcome("c0", -1.0, -5.0, answer=0, **known),
        outcome("c1", -2.0, -4.0, answer=1, **known),
    ]
    values = values_of(rows)
    assert values == {
        "temporal questions": [1, 0, 0, 0, 1, 0],
        "direction": [1, 0],
        "event order": [0, 0],
        "first of two": [1, 1],
        "conflicting, one by one": [1, 0],
        "conflicting, text score": [0],
        "conflicting, video score": [1],
        "conflicting, group score": [0],
        "static": [1, 1, 1, 0],
    }
    assert list(values)[-1] == "static"
    assert values_of([]) == {}


@pytest.mark.parametrize("videos", [lambda g, i: f"{g % 5}-{i}", lambda g, i: f"{g % 5}-{i * g}"])
def test_groups_with_common_videos_are_one_cluster(videos):
    """Forty groups over five sets of linked videos."""
    rows = [
        outcome(f"{g}/{i}", -1.0, -2.0, answer=i, group=str(g), video=videos(g, i))
        for g in range(40)
        for i in range(2)
    ]
    items = benchmark_items(rows)["conflicting, group score"]
    assert {int(item.id) % 5: item.video for item in items}.keys() == set(range(5))
    assert len({item.video for item in items}) == 5
    assert len({(int(item.id) % 5, item.video) for item in items}) == 5


@pytest.fixture
def write(tmp_path):
    (tmp_path / "v.mp4").touch()

    def lines(*texts):
        path = tmp_path / "benchmark.jsonl"
        path.write_text("".join(texts))
        return path

    return lines


def line(**changes):
    return json.dumps({**SAMPLE, **changes}, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "a foreign column", "level": "hard", "frames": 3},
        {"group": None},
        {"id": 7, "options": [1, 2.5]},
        {"video": "file:v.mp4"},
    ],
)
def test_samples_are_read_in_order_with_foreign_and_null_columns_numbers_and_addresses(write, changes):
    pair = [{"id": f"v/{i}", "group": "g", "answer": i % 2} for i in (1, 2)]
    # The last line needs no newline.
    read = read_samples(write(line(**changes), line(**pair[0]), line(**pair[1]).rstrip())).rows.values()
    first = SAMPLE | {key: changes[key] for key in ("id", "options") if key in changes}
    assert [*read] == [Sample(**row) for row in (first, SAMPLE | pair[0], SAMPLE | pair[1])]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("nonsense\n", ["line 2", "JSON"]),
        (line(answer="left"), ["line 2", "answer"]),
        (line(question=None), ["line 2", "question: Field required"]),
        (line(answer=2), ["line 2", "answer 2 must be the index of an option"]),
        (line(options=[], answer=0), ["line 2", "at least two, this one has 0"]),
        # A sample with one option cannot be answered wrongly.
        (line(options=["Left."], answer=0), ["line 2", "at least two, this one has 1"]),
        # Outcomes are stored by id.
        (line(), ["line 2", "an earlier row has the id 'v/0'"]),
        (line(id="v/1", video="gone.mp4"), ["line 2", "gone.mp4 is not a file"]),
        (line(id="v/1", video=""), ["line 2", "is not a file"]),
        # A group of one, with the same answer twice, and with different options.
        (line(id="v/1", group="g"), ["line 2", "group 'g' (line 2) needs two samples or more"]),
        (line(id="v/1", group="g") + line(id="v/2", group="g"), ["line 3", "different answers"]),
        (
            line(id="v/1", group="g") + line(id="v/2", group="g", answer=0, options=["Right.", "Left."]),
            ["line 3", "the same options"],
        ),
    ],
)
def test_a_bad_row_is_named_with_file_and_line_and_set_aside_up_to_a_share(write, second, words):
    path = write(line(), second)
    with pytest.raises(ValueError, match="line") as caught:
        read_samples(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    with pytest.warns(UserWarning, match="are skipped"):
        read = read_samples(path, max_bad_share=0.7)
    assert [*read.rows.values()] == [Sample(**SAMPLE)]
    assert len(read.faults) == second.count("\n")
