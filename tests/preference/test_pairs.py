"""Pairs are joined by id, filtered one by one and selected together; each that is left out has a reason."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from pairs_material import perturbation, select
from rich.console import Console
from sample_material import clips_of, config_of, context_of, grey_jpegs, pair_of

from tempo.config import PairsConfig
from tempo.core.records import Captions, Pair, Response, Responses, Skipped, Unanswered, file_of
from tempo.core.store import RunStore
from tempo.pipeline.runner import discard_files
from tempo.pipeline.stages import find_stage
from tempo.pipeline.steps import run_pairs
from tempo.preference.pairs import (
    HELD_OUT,
    LENGTH_STEP,
    REJECTED,
    log_length_ratio,
    make_pairs,
    mirror,
    pair_fault,
    review_of,
)
from tempo.preference.prompts import describe_prompt
from tempo.video.frames import FrameStore

FOUR = ((0, 1), (1, 2), (2, 3), (3, 4))


def words(count, start=0):
    """A text of so many words; with another start it shares none of them."""
    return " ".join(f"w{start + i}" for i in range(count))


def ids(rows):
    return {row.id for row in rows}


def pair(video="v", kind="shuffle", level=4, *, chosen="c " * 10, rejected=None):
    rejected = f"{kind}{level} " * 10 if rejected is None else rejected
    return pair_of(video, kind, level, chosen=chosen, rejected=rejected)


@pytest.mark.parametrize(
    ("options", "kind", "chosen", "rejected", "reason", "figure"),
    [
        ({}, "shuffle", words(10), words(15, 50), None, ""),
        ({}, "shuffle", words(16), words(10, 50), "lengths differ too much", "1.60 over 1.5"),
        ({}, "reverse", words(10), words(16, 50), "lengths differ too much", "1.60 over 1.5"),
        ({}, "drop", words(10), words(9, 50), None, ""),
        ({}, "drop", words(10), words(10, 50), "chosen is not longer", "10 against 10 words"),
        ({}, "reverse", words(10), words(10), "same text", "10 words"),
        ({}, "shuffle", words(10), f"So: {words(10)} end", "chosen is part of rejected", "10 of 12 words"),
        # Fault 3: a rule that gives the answer away by length can be switched off.
        ({"length": "any"}, "drop", words(10), words(12, 50), None, ""),
        ({"max_length_ratio": 1.6}, "reverse", words(10), words(16, 50), None, ""),
    ],
)
def test_the_filter(options, kind, chosen, rejected, reason, figure):
    fault = pair_fault(pair(kind=kind, chosen=chosen, rejected=rejected), PairsConfig(**options))
    assert (fault[0] if fault else None) == reason
    assert figure in (fault[1] if fault else "")


def responses_of(name, start):
    """Different texts for each perturbation; of the four rejected ones the shuffle is too long."""
    rejected = [
        Response(perturbation=perturbation("drop", 4, (2,), 4), text=words(3, start + 20)),
        Response(perturbation=perturbation("shuffle", 4, (1, 0, 3, 2), 4), text=words(30, start + 30)),
        Response(perturbation=perturbation("reverse", 16, (3, 2, 1, 0), 4), text=words(11, start + 60)),
        Response(perturbation=perturbation("reverse", 2, (2, 3, 0, 1), 4), text=words(12, start + 80)),
    ]
    unanswered = [Unanswered(kind="drop", level=2, reason="empty")]
    return Responses(id=name, num_clips=4, chosen=words(10, start), rejected=rejected, unanswered=unanswered)


@pytest.fixture
def run(tmp_path):
    """The context, by settings, of a run whose stages wrote rows in different orders and skipped a video."""
    store = RunStore(tmp_path)
    store.append("clips", [clips_of(*FOUR, name=name) for name in ("c", "gone", "a", "b")])
    store.append("responses", [responses_of("b", 1000), responses_of("a", 2000), responses_of("c", 3000)])
    for name in "abc":
        seconds = [0.5, 1.5, 2.5, 3.5]
        FrameStore(tmp_path / "frames").write(name, grey_jpegs(range(4)), seconds=seconds, fps=1.0)

    def context(held_out_share=0, **settings):
        return context_of(tmp_path, pairs=settings, evaluation={"held_out_share": held_out_share})

    return context


def test_pairs_are_joined_by_id_and_those_left_out_have_a_reason(run):
    """Fault 10: the released code joins them by position."""
    made = make_pairs(run())
    tails = ("drop-04", "reverse-02", "reverse-16")
    assert [row.id for row in made.pairs] == [f"{video}/{tail}" for video in "abc" for tail in tails]
    starts = {"b": 1000, "a": 2000, "c": 3000}
    texts = {"drop-04": (20, (2,)), "reverse-16": (60, (3, 2, 1, 0)), "reverse-02": (80, (2, 3, 0, 1))}
    for row in made.pairs:
        offset, order = texts[row.id.split("/")[1]]
        assert row.video == f"/films/{row.video_id}.mp4"
        assert row.prompt == describe_prompt(row.video_id, seed=0)
        assert row.chosen == words(10, starts[row.video_id])
        assert row.rejected.split()[0] == f"w{starts[row.video_id] + offset}"
        assert (row.order, row.num_clips) == (order, 4)
    assert len(made.skipped) == 6
    assert {(row.stage, row.id[2:], row.reason, row.detail) for row in made.skipped} == {
        ("pairs", "shuffle-04", "lengths differ too much", "ratio 3.00 over 1.5"),
        ("pairs", "drop-02", "no rejected answer", "empty"),
    }


def test_pairs_that_agree_no_better_with_the_captions_are_set_aside(run, tmp_path):
    """The true order is 0 to 3; the first rejected text misses a clip, the second is in another order."""
    told = [f"{name} {name} thing." for name in ("red", "green", "blue", "white")]
    store = RunStore(tmp_path)
    store.append("clips", [clips_of(*FOUR, name="d")])
    store.append("captions", [Captions(id="d", captions=told)])
    texts = {
        "drop": told[:3],
        "reverse": [told[2], told[3], told[0], told[1]],
        "shuffle": [told[0], "Look!", *told[1:]],
    }
    made = [
        Response(perturbation=perturbation(kind, 2, (1, 0), 4), text=" ".join(text))
        for kind, text in texts.items()
    ]
    store.path("responses").unlink()
    store.append("responses", [Responses(id="d", num_clips=4, chosen=" ".join(told), rejected=made)])
    kept = {margin: make_pairs(run(verify=True, verify_margin=margin)) for margin in (0, 0.3)}
    assert {margin: ids(found.pairs) for margin, found in kept.items()} == {
        0: {"d/drop-02", "d/reverse-02"}, 0.3: {"d/reverse-02"}
    }  # fmt: skip
    (skipped,) = kept[0].skipped
    assert (skipped.id, skipped.reason) == ("d/shuffle-02", "chosen does not agree better")
    assert skipped.detail == "gain 0.00, not over 0"
    assert ids(make_pairs(run()).pairs) == {f"d/{kind}-02" for kind in texts}
    # Then the clips are captioned, although the responses do not need it.
    video = {"input_form": "video"}
    idle = [
        find_stage("captions").idle(config_of(responses=video, pairs={"verify": on})) for on in (True, False)
    ]
    assert idle == ["", "responses.input_form is 'video'"]


def test_pairs_of_a_segment_name_its_part_of_the_file(run, tmp_path):
    store, segment = RunStore(tmp_path), clips_of(*FOUR, name="film-2")
    store.append("clips", [segment.model_copy(update={"start_seconds": 30.0})])
    store.append("responses", [responses_of("film-2", 4000)])
    spans = {row.video_id: row.span for row in make_pairs(run()).pairs}
    assert spans == {"a": (), "b": (), "c": (), "film-2": (30.0, 30.0 + segment.duration_seconds)}


def test_the_stage_writes_held_out_pairs_to_another_file(run):
    store, quiet = RunStore(run().directory), Console(quiet=True)
    run_pairs(run(), quiet)
    assert not store.path(HELD_OUT).exists()
    run_pairs(run(held_out_share=0.5), quiet)
    kept, held_out = store.read("pairs", Pair), store.read(HELD_OUT, Pair)
    assert len(kept) + len(held_out) == 9
    assert not {row.video_id for row in kept} & {row.video_id for row in held_out}
    discard_files(find_stage("pairs"), store.directory)
    assert not store.path(HELD_OUT).exists()


def test_rejected_pairs_are_left_out_until_the_last_review_keeps_them(run):
    """Also their mirror images, but not another pair that later has the same id."""
    context, store, quiet = run(mirror=True), RunStore(run().directory), Console(quiet=True)
    everything = {row.id: row for row in make_pairs(context).pairs}
    mirrored, plain, changed = "a/reverse-02/mirror", "b/drop-04", "c/drop-04"
    old = everything[changed].model_copy(update={"rejected": "Another text."})
    rejected = [everything[mirrored], everything[plain], old]
    store.append("reviews", [review_of(row, "reject") for row in rejected])
    run_pairs(context, quiet)
    left_out = {"a/reverse-02", mirrored, plain, f"{plain}/mirror"}
    assert ids(store.read("pairs", Pair)) == everything.keys() - left_out
    assert ids(store.read(REJECTED, Pair)) == {"a/reverse-02", plain}
    reasons = {row.id: row.reason for row in store.read("skipped", Skipped)}
    assert reasons["a/reverse-02"] == reasons[plain] == "rejected by a person"
    discard_files(find_stage("pairs"), store.directory)
    store.append("reviews", [review_of(row, "keep") for row in rejected])
    run_pairs(context, quiet)
    assert ids(store.read("pairs", Pair)) == everything.keys()
    assert not store.path(REJECTED).exists()


def test_of_duplicates_the_hardest_level_remains():
    rows = [pair(level=level, rejected="same") for level in (16, 2, 8)]
    others = [pair("w", rejected="same"), pair(kind="drop", chosen="other", rejected="same")]
    made = select([*rows, *others])
    assert ids(made.pairs) == {"v/shuffle-02", *ids(others)}
    assert ids(made.skipped) == {"v/shuffle-08", "v/shuffle-16"}
    assert {row.detail for row in made.skipped} == {"same texts as v/shuffle-02"}
    assert len(select(rows, drop_duplicates=False).pairs) == 3


def test_about_the_share_of_videos_is_held_out_independently_of_the_others():
    rows = [row for i in range(400) for row in (pair(f"v{i}"), pair(f"v{i}", "drop"))]
    made = select(rows, share=0.25)
    held_out, kept = ({row.video_id for row in part} for part in (made.held_out, made.pairs))
    assert not held_out & kept
    assert 70 <= len(held_out) <= 130
    half = select(rows[:400], share=0.25)
    assert ids(half.held_out) == ids(made.held_out) & ids(rows[:400])


@pytest.mark.parametrize(
    ("names", "share", "num_held_out"),
    [
        ("ab", 0.001, 1),
        ("ab", 0.999, 1),
        ("a", 0.999, 0),
        ("ab", 0.0, 0),
        # All units of a film are on one side.
        (("a-1", "a-2", "a-3"), 0.5, 0),
        (("a-1", "a-2", "b"), 0.001, 1),
    ],
)
def test_of_two_files_one_is_held_out_and_one_is_trained_on(names, share, num_held_out):
    made = select([pair(name) for name in names], share=share)
    held_out, kept = ({file_of(row.video_id) for row in part} for part in (made.held_out, made.pairs))
    assert len(held_out) == num_held_out
    assert kept == {*map(file_of, names)} - held_out


def test_fair_lengths_are_balanced_in_every_kind_and_level_at_every_ratio():
    # In drop pairs the chosen answer is nearly always longer.
    draw, shortest = random.Random(0), {"drop": 10, "shuffle": 60, "reverse": 60}
    rows = [
        pair(f"v{i}", kind, level, chosen="c " * 80, rejected=f"{kind}{level} " * draw.randint(least, 95))
        for i, (kind, least), level in itertools.product(range(60), shortest.items(), (16, 8, 4, 2))
    ]
    made = select(rows, share=0.2, length="fair")
    assert ids(made.pairs) | ids(made.held_out) | ids(made.skipped) == ids(rows)
    assert len(made.pairs) + len(made.held_out) + len(made.skipped) == len(rows)
    balance = Counter()
    for row in made.pairs:
        ratio = log_length_ratio(row)
        balance[row.kind, row.level, round(abs(ratio) / LENGTH_STEP)] += (ratio > 0) - (ratio < 0)
    assert set(balance.values()) == {0}
    assert {row.kind for row in made.pairs} == set(shortest)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert ids(select(shuffled, share=0.2, length="fair").pairs) == ids(made.pairs)
    assert ids(select(rows, share=0.2, seed=1, length="fair").pairs) != ids(made.pairs)


def test_fair_keeps_equal_lengths_and_explains_the_others():
    lengths = {"a": (10, 10), "b": (20, 10), "c": (20, 10), "d": (10, 20)}
    rows = [pair(name, chosen="c " * n, rejected="r " * m) for name, (n, m) in lengths.items()]
    # Pairs of another kind or level do not balance them, and empty texts have a length, too.
    rows += [pair("e", "drop", chosen="c " * 20), pair("f", "drop", 2, rejected="r " * 20)]
    rows += [pair("g", level=8, chosen=""), pair("h", level=8, rejected="")]
    made = select(rows, length="fair")
    assert {"a/shuffle-04", "d/shuffle-04", "g/shuffle-08", "h/shuffle-08"} < ids(made.pairs)
    assert len(made.pairs) == 5
    (row,) = (row for row in made.skipped if row.id[0] in "bc")
    assert row.reason == "length gives it away"
    assert row.detail == "no other shuffle pair of level 4 balances its lengths"


def test_a_mirrored_pair_shows_the_perturbed_frames_and_exchanges_the_texts():
    one = pair(kind="reverse")
    image = mirror(one, np.array([0, 0, 1, 2]))
    exchanged = {"chosen": one.rejected, "rejected": one.chosen, "frames": (2, 0, 1)}
    assert image == one.model_copy(update={"id": f"{one.id}/mirror", **exchanged})
    # All frames are of one clip, or of clips that are dropped.
    assert [mirror(one, np.array(clip_T)) for clip_T in ([1, 1, 1], [0, 0], [2, 3])] == [None] * 3
    # The frames of another video cannot be shown.
    assert mirror(pair(kind="replace"), np.array([0, 0, 1, 2])) is None


def test_with_mirrored_pairs_each_text_is_chosen_as_often_as_rejected(run):
    plain, mirrored = make_pairs(run()).pairs, make_pairs(run(mirror=True)).pairs
    assert [row for row in mirrored if not row.frames] == plain
    assert len(ids(mirrored)) == len(mirrored) == 2 * len(plain)
    assert Counter(row.chosen for row in mirrored) == Counter(row.rejected for row in mirrored)
