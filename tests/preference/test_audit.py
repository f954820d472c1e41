"""The audit finds planted shortcuts, finds none where there is none, and gives no verdict on few videos."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
import tomli_w
import torch
from pairs_material import assistant, select, user
from sample_material import pair_of, write_rows

from tempo.core.records import Captions
from tempo.core.store import RunStore
from tempo.model.chat import Prefix
from tempo.model.loading import load_model
from tempo.model.support import duplicated_log_probs
from tempo.preference.audit import Accuracy, AuditReport, BaselineAccuracy, audit, verdict
from tempo.preference.importing import load_pairs

WORDS = [f"w{i}" for i in range(40)]
KINDS = ("drop", "shuffle", "reverse")
FITTED = ("length", "words")


def fair_pairs(num_videos):
    """Texts and lengths drawn alike for both sides: nothing tells them apart."""
    rows = []
    for video in range(num_videos):
        draw = random.Random(f"0/{video}")
        chosen, *rejected = (" ".join(draw.choices(WORDS, k=draw.randint(17, 23))) for _ in range(7))
        for cell, text in zip(itertools.product(KINDS, (16, 2)), rejected, strict=True):
            rows.append(pair_of(f"v{video}", *cell, chosen=chosen, rejected=text))
    return rows


def short_drops(row):
    """Rejected answers of drop pairs lose half of their words."""
    words = row.rejected.split()
    return row.chosen, " ".join(words[: len(words) // 2]) if row.kind == "drop" else row.rejected


def change(rows, flaw):
    """The pairs with both texts as `flaw(pair)` gives them."""
    return [row.model_copy(update=dict(zip(("chosen", "rejected"), flaw(row), strict=True))) for row in rows]


def test_length_is_found_in_drop_pairs_and_gone_from_fair_pairs():
    rows = change(fair_pairs(80), short_drops)
    report = audit(rows)
    assert report.baselines["length"].accuracy > 0.6
    assert report.baselines["length"].by_kind["drop"].accuracy > 0.95
    assert "a shortcut. Set pairs.length" in report.verdict
    fair = audit(select(rows, length="fair").pairs)
    assert fair.baselines["length"].accuracy <= 0.55
    assert "Set pairs.length" not in fair.verdict


def test_pairs_drawn_alike_are_told_apart_about_half_of_the_time():
    report = audit(fair_pairs(150))
    assert list(report.baselines) == list(FITTED)
    assert all(0.42 < baseline.accuracy < 0.58 for baseline in report.baselines.values())
    assert report.verdict.count("no shortcut") == 2


def test_words_of_a_video_do_not_help_with_the_same_video():
    """The chosen answers of each video share a word, so folds must be by video."""
    marked = change(fair_pairs(40), lambda row: (f"{row.chosen} {row.video_id}", row.rejected))
    fair, own = (audit(rows).baselines["words"].accuracy for rows in (fair_pairs(40), marked))
    assert abs(own - fair) < 0.05


def test_each_pair_counts_in_its_own_kind_and_level():
    cells = itertools.product(range(20), ("drop", "swap"), (16, 2))
    rows = [pair_of(f"v{i}", kind, level) for i, kind, level in cells]
    rows = change(rows, lambda row: ("a b" if row.kind == "drop" and row.level == 2 else "b", "c"))
    found = audit(rows).baselines["length"]
    assert {kind: part.accuracy for kind, part in found.by_kind.items()} == {"drop": 0.75, "swap": 0.5}
    assert {level: part.accuracy for level, part in found.by_level.items()} == {"16": 0.5, "2": 0.75}
    parts = (*found.by_kind.values(), *found.by_level.values())
    assert {(part.num_pairs, part.num_videos) for part in parts} == {(40, 20)}
    assert (found.num_pairs, found.num_videos) == (80, 20)


@pytest.mark.parametrize(
    ("num_videos", "names"),
    [(0, []), (4, []), (5, [*FITTED])],
)
def test_few_videos_have_figures_with_wide_intervals_and_no_verdict(num_videos, names):
    report = audit(change(fair_pairs(num_videos), short_drops))
    assert list(report.baselines) == names
    for baseline in report.baselines.values():
        low, high = baseline.interval
        assert low <= baseline.accuracy <= high
        assert high - low > 0.15
    assert f"No verdict: {6 * num_videos} pairs of {num_videos} videos are too few" in report.verdict


def test_segments_of_a_film_count_as_one_video():
    rows = [row.model_copy(update={"video_id": f"{row.video_id}-1"}) for row in fair_pairs(20)]
    rows += [row.model_copy(update={"id": f"{row.id}b", "video_id": f"{row.video_id[:-1]}2"}) for row in rows]
    assert audit(rows).num_videos == 40
    assert audit([row.model_copy(update={"span": (0.0, 60.0)}) for row in rows]).num_videos == 20


def test_whole_videos_are_drawn_up_to_the_limit_and_enough_of_them():
    rows = fair_pairs(60)
    report = audit(rows, max_pairs=200)
    assert (report.num_pairs, report.num_audited, report.num_videos) == (360, 198, 33)
    assert audit(rows[::-1], max_pairs=200) == report
    assert audit(rows, max_pairs=200, seed=1) != report
    assert audit(rows, max_pairs=1).num_videos == 20


def test_recipe_audit_of_a_preference_set_that_is_not_tempos(tmp_path):
    """A JSONL file in TRL's conversational format without videos, and lists of texts."""
    rows = change(fair_pairs(40), lambda row: (row.chosen, row.rejected.replace("w1", "suddenly")))
    lines = []
    for row in rows:
        asked, texts = (
            user(f"What happens in {row.video_id}?"),
            {"chosen": row.chosen, "rejected": row.rejected},
        )
        lines.append({name: [asked, assistant(text)] for name, text in texts.items()} | {"score": 5})
    report = audit(load_pairs(write_rows(tmp_path / "ultrafeedback.jsonl", *lines)))
    assert report.baselines["words"].accuracy > 0.95
    assert report.baselines["words"].by_kind.keys() == {"other"}
    # The six pairs of a video share their chosen text.
    assert (report.num_pairs, report.num_videos) == (240, 40)
    assert audit(lines) == report
    lists = audit([(row.chosen, row.rejected) for row in rows])
    assert lists.num_videos == 40


@pytest.mark.parametrize(
    ("bad", "message"), [(("only one",), "pair 2"), ({"text": "x"}, "pair 2: not a known format")]
)
def test_a_value_that_is_not_a_pair_is_named_by_its_number(bad, message):
    with pytest.raises(ValueError, match=message):
        audit([("a", "b"), bad])


def test_the_model_compares_log_probabilities_per_token_without_a_video():
    lm = load_model("embedded")
    rows = [
        pair_of("a", chosen="First, a red ring grows in the sea.", rejected="sea the in grows ring red"),
        pair_of("a", "drop", chosen="First, a red ring grows in the sea.", rejected="First, a red ring."),
        pair_of("b", chosen="sea sea sea", rejected="A blue cross turns red in the snow."),
    ]
    expected = []
    for row in rows:
        group = lm.group(Prefix(None, row.prompt), [row.chosen, row.rejected])
        with torch.no_grad():
            chosen, rejected = (float(p.mean()) for p in duplicated_log_probs(lm.model, [group])[0])
        expected.append(float(chosen > rejected))
    report = audit(rows, with_model=lm)
    assert 0 < np.mean(expected) < 1
    assert report.baselines["model"].accuracy == pytest.approx(np.mean(expected), abs=1e-4)
    limited = audit(fair_pairs(22), with_model=lm, max_model_pairs=1)
    assert limited.baselines["model"].num_videos == 20
    assert "model" not in audit(rows, with_model=lm, max_model_pairs=0).baselines


def cell(accuracy, margin=0.03, num_videos=50):
    interval = (accuracy - margin, accuracy + margin)
    return Accuracy(accuracy=accuracy, interval=interval, num_pairs=300, num_videos=num_videos)


def summary(accuracy, margin=0.03, *, kinds=None, levels=None):
    whole = cell(accuracy, margin).model_dump()
    return BaselineAccuracy(**whole, by_kind=kinds or {}, by_level=levels or {})


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (
            {"length": summary(0.65, kinds={"drop": cell(1.0)}), "words": summary(0.63)},
            "Length alone solves 65 % of the pairs, 100 % of drop pairs: a shortcut. Set pairs.length =",
        ),
        # Below 50 % a fitted baseline has found nothing, but the model has.
        ({"words": summary(0.3)}, "The choice of words alone solves 30 % of the pairs: no shortcut."),
        ({"model": summary(0.3)}, "solves 70 % of the pairs: a shortcut."),
        (
            {"length": summary(0.53, levels={"16": cell(0.9), "2": cell(0.5)})},
            "Length alone solves 53 % of the pairs, 90 % of level 16: a shortcut.",
        ),
        (
            {"length": summary(0.53, levels={"16": cell(0.9, 0.4), "2": cell(0.9, num_videos=19)})},
            "Length alone solves 53 % of the pairs: no shortcut.",
        ),
        ({"words": summary(0.58, 0.1)}, "solves 58 % of the pairs: no clear shortcut."),
    ],
)
def test_the_verdict_names_shortcuts_with_figures_and_advice(scores, expected):
    text = verdict(scores, num_pairs=300, num_videos=50)
    assert expected in text
    assert text.endswith("shortcut.") == ("no " in expected)


@pytest.fixture
def store(tmp_path):
    """A run directory with pairs, whose report is done."""
    store = RunStore(tmp_path)
    store.append("pairs", fair_pairs(40))
    settings = {"max_pairs": 150, "max_model_pairs": 0}
    config = {"videos": {"paths": ["x"]}, "run": {"seed": 3}, "audit": settings}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config))
    store.finish("report", "mark")
    return store


def test_the_command_audits_a_directory_by_its_config(tempo, store, tmp_path):
    code, out, _ = tempo("audit", tmp_path)
    assert code == 0
    assert all(words in out for words in ("length", "150 of 240 pairs", "Length alone solves"))
    report = AuditReport.model_validate_json((tmp_path / "audit.json").read_text())
    expected = audit(fair_pairs(40), seed=3, max_pairs=150)
    assert report == expected.model_copy(update={"pair_scores": {}})
    assert report.verified is None
    scores = json.loads((tmp_path / "audit_pairs.json").read_text())
    assert scores == expected.pair_scores
    picked = [row["words"] > 0 for row in scores.values()]
    assert sum(picked) / report.num_audited == pytest.approx(report.baselines["words"].accuracy, abs=1e-4)
    assert not store.is_done("report")


def test_the_audit_says_how_often_chosen_texts_agree_better_with_the_captions(tempo, store, tmp_path):
    """In three of four videos the chosen text has both captions in order, in the others the rejected one."""
    told, other = "A dog runs. A cat sleeps.", "A cat sleeps. A dog runs."
    texts = [(other, told) if i % 4 == 0 else (told, other) for i in range(40)]
    pairs = [pair_of(f"v{i}", chosen=c, rejected=r) for i, (c, r) in enumerate(texts)]
    store.forget("pairs")
    store.append("pairs", [*pairs, pairs[1].model_copy(update={"id": "mirrored", "frames": (1, 0)})])
    store.append("captions", [Captions(id=f"v{i}", captions=told.split(". ")) for i in range(40)])
    code, out, _ = tempo("audit", tmp_path)
    assert code == 0
    assert "agrees better with the captions of the clips in 75 % of the pairs" in " ".join(out.split())
    verified = AuditReport.model_validate_json((tmp_path / "audit.json").read_text()).verified
    assert (verified.accuracy, verified.num_pairs, verified.num_videos) == (0.75, 40, 40)


def test_a_directory_that_cannot_be_audited_is_refused(tempo, store, tmp_path):
    with store.lock():
        assert "in use by another tempo run" in tempo("audit", tmp_path)[2]
    (tmp_path / "pairs.jsonl").write_text('{"id": "x"}\n')
    assert "pairs.jsonl line 1" in tempo("audit", tmp_path)[2]
    assert "typo" in tempo("audit", tmp_path / "typo")[2]
    assert not (tmp_path / "audit.json").exists()
    assert not (tmp_path / "typo").exists()
