"""Pairs join responses with clips by id, and the filter says what stopped each pair it stops."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tempo.config import Config, PairsConfig
from tempo.core.records import Clip, Clips, Pair, Perturbation, Response, Responses
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.runner import discard_files
from tempo.pipeline.stages import find_stage
from tempo.pipeline.steps import run_pairs
from tempo.preference.pairs import HELD_OUT, make_pairs, mirror, pair_fault, word_difference
from tempo.preference.prompts import DESCRIBE
from tempo.preference.selection import Selection
from tempo.video.frames import FrameStore, encode_jpeg


def words(count, start=0):
    """A text of so many words; with another start it shares none of them."""
    return " ".join(f"w{start + i}" for i in range(count))


def pair(kind, chosen, rejected):
    return Pair(
        id=f"v/{kind}-04",
        video_id="v",
        video="v.mp4",
        prompt="p",
        chosen=chosen,
        rejected=rejected,
        kind=kind,
        level=4,
        order=(1, 0),
        num_clips=4,
    )


@pytest.mark.parametrize(
    ("kind", "chosen", "rejected", "reason", "figure"),
    [
        ("shuffle", words(10), words(10, 50), None, ""),
        ("reverse", words(15), words(10, 50), None, ""),
        ("shuffle", words(10), words(15, 50), None, ""),
        ("shuffle", words(16), words(10, 50), "lengths differ too much", "1.60 over 1.5"),
        ("reverse", words(10), words(16, 50), "lengths differ too much", "1.60 over 1.5"),
        ("shuffle", words(10), "", "lengths differ too much", "10.00 over 1.5"),
        ("drop", words(10), words(9, 50), None, ""),
        ("drop", words(40), words(9, 50), None, ""),
        ("drop", words(10), words(10, 50), "chosen is not longer", "10 against 10 words"),
        ("drop", words(10), words(12, 50), "chosen is not longer", "10 against 12 words"),
        ("drop", words(10), words(10), "same text", "10 words"),
        ("reverse", words(10), words(10), "same text", "10 words"),
        ("shuffle", words(10), f"So: {words(10)} end", "chosen is part of rejected", "10 of 12 words"),
        ("drop", words(10), words(12), "chosen is part of rejected", "10 of 12 words"),
        ("shuffle", words(12), words(10), None, ""),
    ],
)
def test_filter(kind, chosen, rejected, reason, figure):
    fault = pair_fault(pair(kind, chosen, rejected), PairsConfig())
    assert (fault[0] if fault else None) == reason
    if fault:
        assert figure in fault[1]


def test_length_of_drop_pairs_matters_only_if_asked_for():
    """Fault 3: a rule that gives the answer away by length can be switched off."""
    longer = pair("drop", words(10), words(12, 50))
    assert pair_fault(longer, PairsConfig(length="paper")) is not None
    assert pair_fault(longer, PairsConfig(length="any")) is None
    assert pair_fault(longer, PairsConfig(length="fair")) is None


def test_length_ratio_is_the_one_asked_for():
    uneven = pair("reverse", words(16), words(10, 50))
    assert pair_fault(uneven, PairsConfig(max_length_ratio=1.6)) is None
    assert "over 1.59" in pair_fault(uneven, PairsConfig(max_length_ratio=1.59))[1]


def plain_distance(first, second):
    """Edit distance of word lists by its definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        plain_distance(first[1:], second) + 1,
        plain_distance(first, second[1:]) + 1,
        plain_distance(first[1:], second[1:]) + (first[0] != second[0]),
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", ""),
        ("a", ""),
        ("", "a b"),
        ("a b c", "a b c"),
        ("a b c", "c b a"),
        ("a b c d", "c d a b"),
        ("a a b", "b a a a b"),
        ("a b c d e", "b c d e a"),
        ("one two three", "two zero three one"),
    ],
)
def test_word_difference_is_edits_over_words_of_the_longer(first, second):
    words, others = first.split(), second.split()
    expected = plain_distance(words, others) / max(1, len(words), len(others))
    assert word_difference(first, second) == pytest.approx(expected)
    assert word_difference(second, first) == pytest.approx(expected)


def test_moved_sentences_count_as_different():
    """The same words in another order are what this project is about: no duplicate."""
    assert word_difference("A dog runs. A cat sleeps.", "A cat sleeps. A dog runs.") >= 0.5


def test_texts_that_differ_too_little_are_stopped_with_the_figure():
    nearly = pair("shuffle", words(20), words(19) + " other")
    assert pair_fault(nearly, PairsConfig()) is None
    assert pair_fault(nearly, PairsConfig(min_difference=0.05)) is None
    assert pair_fault(nearly, PairsConfig(min_difference=0.06)) == (
        "texts differ too little",
        "0.050 under 0.06",
    )


def perturbation(kind, level, order):
    return Perturbation(
        kind=kind, level=level, order=order, num_clips=4, kept_share=len(order) / 4, kendall_distance=0.5
    )


def clips_of(name):
    clips = tuple(
        Clip(group=0, first_shot=i, num_shots=1, start_seconds=i, end_seconds=i + 1, key_frames=(3,))
        for i in range(4)
    )
    return Clips(id=name, path=f"/films/{name}.mp4", duration_seconds=4, clips=clips)


def responses_of(name, start):
    """Chosen with its own words; of the four rejected ones the shuffle is too long."""
    return Responses(
        id=name,
        num_clips=4,
        chosen=words(10, start),
        rejected=(
            Response(perturbation=perturbation("drop", 4, (2,)), text=words(3, start + 20)),
            Response(perturbation=perturbation("shuffle", 4, (1, 0, 3, 2)), text=words(30, start + 30)),
            Response(perturbation=perturbation("reverse", 16, (3, 2, 1, 0)), text=words(11, start + 60)),
            Response(perturbation=perturbation("reverse", 2, (2, 3, 0, 1)), text=words(12, start + 80)),
        ),
    )


@pytest.fixture
def run(tmp_path):
    """A run whose stages wrote their rows in different orders, and dropped a video in between."""
    store = RunStore(tmp_path)
    store.append("clips", [clips_of(name) for name in ("c", "gone", "a", "b")])
    store.append("responses", [responses_of("b", 1000), responses_of("a", 2000), responses_of("c", 3000)])
    return Context(Config.model_validate({"videos": {"paths": ["unused"]}}), tmp_path)


def test_pairs_are_joined_by_id_and_never_by_position(run):
    """Fault 10."""
    pairs = make_pairs(run).pairs
    starts = {"b": 1000, "a": 2000, "c": 3000}
    assert {row.video_id for row in pairs} == {"a", "b", "c"}
    for row in pairs:
        assert row.video == f"/films/{row.video_id}.mp4"
        assert row.chosen == words(10, starts[row.video_id])
        number = int(row.rejected.split()[0][1:])
        assert starts[row.video_id] < number < starts[row.video_id] + 100


def test_id_is_video_kind_and_level_and_pairs_are_sorted_by_it(run):
    pairs = make_pairs(run).pairs
    assert [row.id for row in pairs] == [
        f"{video}/{tail}" for video in "abc" for tail in ("drop-04", "reverse-02", "reverse-16")
    ]


def test_pair_carries_the_perturbation_that_made_its_rejected_answer(run):
    pairs = make_pairs(run).pairs
    found = {
        (row.kind, row.level): (row.order, row.rejected.split()[0]) for row in pairs if row.video_id == "a"
    }
    assert found == {
        ("drop", 4): ((2,), "w2020"),
        ("reverse", 16): ((3, 2, 1, 0), "w2060"),
        ("reverse", 2): ((2, 3, 0, 1), "w2080"),
    }
    assert {row.num_clips for row in pairs} == {4}


def test_stopped_pairs_are_set_aside_with_reason_and_figure(run):
    drops = make_pairs(run).drops
    assert sorted(drop.id for drop in drops) == ["a/shuffle-04", "b/shuffle-04", "c/shuffle-04"]
    assert {(drop.stage, drop.reason, drop.detail) for drop in drops} == {
        ("pairs", "lengths differ too much", "ratio 3.00 over 1.5")
    }


def test_every_response_becomes_a_pair_or_a_drop(run):
    made = make_pairs(run)
    pairs, drops = made.pairs, made.drops
    assert len({row.id for row in [*pairs, *drops]}) == len(pairs) + len(drops) == 12


def test_prompt_is_one_of_the_instructions_and_the_same_for_a_whole_video(run):
    pairs = make_pairs(run).pairs
    for video in "abc":
        (prompt,) = {row.prompt for row in pairs if row.video_id == video}
        assert prompt in DESCRIBE


def test_prompts_vary_over_videos(tmp_path):
    store = RunStore(tmp_path)
    names = [f"v{i}" for i in range(40)]
    store.append("clips", map(clips_of, names))
    store.append("responses", [responses_of(name, 100 * i) for i, name in enumerate(names)])
    context = Context(Config.model_validate({"videos": {"paths": ["unused"]}}), tmp_path)
    assert {row.prompt for row in make_pairs(context).pairs} == set(DESCRIBE)


def test_pairs_do_not_depend_on_the_order_of_the_rows(run):
    before = make_pairs(run).pairs
    for name in ("clips", "responses"):
        path = run.directory / f"{name}.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert make_pairs(run).pairs == before


def test_video_whose_perturbed_answers_were_all_cut_gives_no_pair(tmp_path):
    store = RunStore(tmp_path)
    store.append("clips", [clips_of("a")])
    store.append("responses", [responses_of("a", 0).model_copy(update={"rejected": ()})])
    context = Context(Config.model_validate({"videos": {"paths": ["unused"]}}), tmp_path)
    assert make_pairs(context) == Selection([], [], [])


def test_pair_survives_its_file(run):
    pairs = make_pairs(run).pairs
    assert [Pair.model_validate(json.loads(row.model_dump_json())) for row in pairs] == pairs


def test_selection_comes_after_the_filter_and_its_drops_are_told(run):
    settings = run.config.pairs.model_copy(update={"max_per_video": 1})
    context = Context(run.config.model_copy(update={"pairs": settings}), run.directory)
    made = make_pairs(context)
    assert sorted(row.video_id for row in made.pairs) == ["a", "b", "c"]
    reasons = [drop.reason for drop in made.drops]
    assert reasons.count("lengths differ too much") == 3
    assert reasons.count("too many pairs of one video") == 6


def run_stage(run, **settings):
    update = run.config.pairs.model_copy(update=settings)
    context = Context(run.config.model_copy(update={"pairs": update}), run.directory)
    run_pairs(context, Console(quiet=True))


def test_stage_writes_held_out_pairs_to_their_own_file(run):
    run_stage(run, held_out_share=0.5)
    store = RunStore(run.directory)
    kept, held_out = store.read("pairs", Pair), store.read(HELD_OUT, Pair)
    assert len(kept) + len(held_out) == 9
    assert not {row.video_id for row in kept} & {row.video_id for row in held_out}


def test_stage_writes_no_held_out_file_unless_asked_and_removes_it_with_the_pairs(run):
    run_stage(run)
    assert not RunStore(run.directory).path(HELD_OUT).exists()
    run_stage(run, held_out_share=0.5)
    discard_files(find_stage("pairs"), run.directory)
    assert not RunStore(run.directory).path(HELD_OUT).exists()


def test_the_mirror_of_a_pair_shows_the_perturbed_frames_and_swaps_the_answers():
    one = pair("reverse", "first then last", "last then first")
    image = mirror(one, np.array([0, 0, 1, 2]))
    assert image.frames == (2, 0, 1)
    assert (image.chosen, image.rejected) == (one.rejected, one.chosen)
    assert image.id == f"{one.id}/mirror"
    assert (image.kind, image.level, image.prompt) == (one.kind, one.level, one.prompt)


@pytest.mark.parametrize("clip_T", [[1, 1, 1], [0, 0], [2, 3]], ids=["one left", "no change", "none left"])
def test_frames_that_look_as_before_or_like_nothing_have_no_mirror(clip_T):
    assert mirror(pair("reverse", "a b", "b a"), np.array(clip_T)) is None


def test_with_mirrors_each_text_is_chosen_as_often_as_rejected(run):
    store = FrameStore(run.directory / "frames")
    for row in RunStore(run.directory).read("clips", Clips):
        times = [0.5 * (clip.start_seconds + clip.end_seconds) for clip in row.clips]
        picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
        store.write(row.id, [picture] * len(times), seconds=times, fps=1.0)
    plain = make_pairs(run).pairs
    settings = run.config.pairs.model_copy(update={"mirror": True})
    mirrored = make_pairs(replace(run, config=run.config.model_copy(update={"pairs": settings}))).pairs
    assert [row for row in mirrored if not row.frames] == plain
    assert len(mirrored) == 2 * len(plain)
    assert Counter(row.chosen for row in mirrored) == Counter(row.rejected for row in mirrored)
    assert len({row.id for row in mirrored}) == len(mirrored)
