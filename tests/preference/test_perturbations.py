"""Properties that all perturbations share, and the faults of the released rule."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tempo.config import Config, PerturbationsConfig
from tempo.core.hashing import held_out_files
from tempo.core.records import Captions, Clip, Clips, file_of
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.preference.perturbations import (
    distinct_levels,
    kendall_distance,
    make_worker,
    perturb,
    perturb_all,
)

RELEASED = ("drop", "shuffle", "reverse")
KINDS = (*RELEASED, "replace", "swap")
LEVELS = (16, 8, 4, 2)

counts = st.integers(2, 64)
seeds = st.integers(0, 2**63 - 1)
level_lists = st.lists(st.integers(2, 70), min_size=1, max_size=8, unique=True)
# The same examples each time, and no database in the working directory.
many = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def all_of(num_clips, *, levels=LEVELS, kinds=KINDS, seed=0):
    return perturb_all(num_clips, PerturbationsConfig(kinds=kinds, levels=tuple(levels)), seed=seed)


def windows(order, size):
    """All runs of `size` consecutive elements."""
    return [list(order[start : start + size]) for start in range(len(order) - size + 1)]


@given(counts, level_lists, seeds)
@many
def test_a_perturbation_has_its_form_and_is_never_the_original_order(num_clips, levels, seed):
    """Faults 2 and 4: a shuffle that is the reverse, and 15 blocks of 15 clips at level 8."""
    for made in all_of(num_clips, levels=levels, seed=seed):
        order, original = made.order, list(range(num_clips))
        segments = np.array_split(original, min(made.level, num_clips))
        in_reverse = tuple(np.concatenate(segments[::-1]))
        assert order != tuple(original)
        if made.kind in ("drop", "replace"):
            assert list(order) == sorted(set(order) & set(original))
            assert len(order) == max(1, num_clips // made.level)
        else:
            assert sorted(order) == original
        if made.kind == "swap":
            first, second = (clip for place, clip in enumerate(order) if place != clip)
            assert (order[first], order[second]) == (second, first)
            assert abs(first - second) == min(made.level // 2, num_clips - 2)
        if made.kind == "reverse":
            assert order == in_reverse
        if made.kind == "shuffle":
            assert order != in_reverse
            assert all(segment.tolist() in windows(order, len(segment)) for segment in segments)
        assert made.num_clips == num_clips
        assert made.kept_share == pytest.approx(len(order) / num_clips, abs=6e-5)
        assert made.kendall_distance == pytest.approx(kendall_distance(order), abs=6e-5)


@pytest.mark.parametrize("num_clips", range(2, 65))
@given(level_lists, seeds)
@example(list(LEVELS), 0)
@settings(many, max_examples=10)
def test_levels_are_distinct_and_a_larger_one_disturbs_more(num_clips, levels, seed):
    """Fault 1: for 4 to 7 clips the released levels 4, 8 and 16 are the same."""
    made = all_of(num_clips, levels=levels, seed=seed)
    for kind in KINDS:
        of_kind = [p for p in made if p.kind == kind]
        assert [p.level for p in of_kind] == distinct_levels(num_clips, kind, levels)
        assert len({*(p.order for p in of_kind), tuple(range(num_clips))}) == len(of_kind) + 1
        if kind != "shuffle":
            strengths = [(-len(p.order), p.kendall_distance) for p in of_kind]
            assert strengths == sorted(set(strengths), reverse=True)


@pytest.mark.parametrize(
    ("num_clips", "kind", "expected"),
    [
        *((1, kind, []) for kind in KINDS),
        (2, "reverse", [2]),
        *((2, kind, []) for kind in ("shuffle", "swap")),
        (3, "shuffle", [4]),
        (3, "swap", [2]),
        (4, "drop", [4, 2]),
        (7, "reverse", [8, 4, 2]),
        (16, "shuffle", [16, 8, 4]),
    ],
)
def test_of_levels_with_the_same_effect_the_smallest_remains(num_clips, kind, expected):
    assert distinct_levels(num_clips, kind, LEVELS) == expected
    assert distinct_levels(num_clips, kind, LEVELS[::-1]) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [([0, 1, 2], 0), ([2, 1, 0], 1), ([1, 0, 2], 1 / 3), ([2, 3, 0, 1], 4 / 6), ([], 0)],
)
def test_kendall_distance_is_the_share_of_pairs_in_the_wrong_order(order, expected):
    assert kendall_distance(order) == pytest.approx(expected)


@given(st.integers(4, 64), seeds)
@many
def test_each_perturbation_has_its_own_generator(num_clips, seed):
    """Without the other levels and kinds, one is the same."""
    whole = {(p.kind, p.level): p for p in all_of(num_clips, seed=seed)}
    assert all_of(num_clips, kinds=("shuffle",), levels=(4,), seed=seed) == [whole["shuffle", 4]]
    for kind in ("drop", "reverse", "swap"):
        level = distinct_levels(num_clips, kind, LEVELS)[0]
        assert perturb(num_clips, kind, level, seed=seed) == whole[kind, level]


def test_a_shuffle_with_the_order_of_a_smaller_level_is_drawn_again():
    """Of five clips, shuffles of five and of four segments may be the same order."""
    num_redrawn = 0
    for seed in range(600):
        easy, hard = all_of(5, kinds=("shuffle",), seed=seed)
        assert easy.order != hard.order
        assert hard == perturb(5, "shuffle", 4, seed=seed)
        num_redrawn += easy != perturb(5, "shuffle", 8, seed=seed)
    assert num_redrawn > 0


@pytest.mark.parametrize(
    ("num_clips", "kind", "level", "rule", "message"),
    [
        (1, "reverse", 4, "distinct", "cannot change 1 clips"),
        (2, "shuffle", 4, "distinct", "cannot change 2 clips"),
        (8, "rotate", 4, "distinct", "drop, replace, swap, reverse, shuffle"),
        (8, "drop", 1, "distinct", "at least 2"),
        (8, "replace", 4, "paper", "drop, shuffle, reverse,"),
    ],
)
def test_what_cannot_be_perturbed_is_refused(num_clips, kind, level, rule, message):
    with pytest.raises(ValueError, match=message):
        perturb(num_clips, kind, level, rule=rule)


def as_released(num_clips, seed=0):
    """The orders of the rule `paper` by kind and level."""
    made = perturb_all(num_clips, PerturbationsConfig(rule="paper"), seed=seed)
    assert [(p.kind, p.level) for p in made] == [(kind, level) for kind in RELEASED for level in LEVELS]
    assert made[0] == perturb(num_clips, "drop", 16, seed=seed, rule="paper")
    return {(p.kind, p.level): p.order for p in made}


@pytest.mark.parametrize("num_clips", range(2, 65))
def test_paper_rule_perturbs_blocks_at_every_level(num_clips):
    for (kind, level), order in as_released(num_clips, seed=num_clips).items():
        size = max(1, num_clips // level)
        blocks = [tuple(range(num_clips))[start : start + size] for start in range(0, num_clips, size)]
        if kind == "drop":
            assert len(order) == size
            assert list(order) == sorted(set(order) & set(range(num_clips)))
        elif kind == "reverse":
            assert order == tuple(itertools.chain.from_iterable(reversed(blocks)))
        else:
            assert sorted(order) == list(range(num_clips))
            assert all(list(block) in windows(order, len(block)) for block in blocks)


@pytest.mark.parametrize(
    ("counts_of_clips", "num_distinct"),
    [(range(2, 4), 1), (range(4, 8), 2), (range(8, 16), 3), (range(16, 65), 4)],
)
def test_paper_rule_collapses_levels_as_the_released_code_does(counts_of_clips, num_distinct):
    """Fault 1: the same reverse, and as many clips dropped; four levels need 16 clips."""
    for num_clips in counts_of_clips:
        orders = as_released(num_clips)
        assert len({orders["reverse", level] for level in LEVELS}) == num_distinct
        assert len({len(orders["drop", level]) for level in LEVELS}) == num_distinct


def test_half_of_the_paper_rules_hardest_shuffles_change_nothing_and_others_overshoot():
    """Faults 2 and 4: two blocks have two orders; 15 blocks of 15 clips at level 8, three at level 2."""
    orders = [as_released(10, seed)["shuffle", 2] for seed in range(100)]
    unchanged = orders.count(tuple(range(10)))
    assert 30 <= unchanged <= 70
    assert orders.count(as_released(10)["reverse", 2]) == 100 - unchanged
    assert as_released(15)["reverse", 8] == tuple(range(15))[::-1]
    assert as_released(5)["reverse", 2] == (4, 2, 3, 0, 1)


def worker(directory="unused", **sections):
    config = Config.model_validate({"videos": {"paths": ["unused"]}, **sections})
    return make_worker(Context(config, Path(directory)))


def captions(name, count):
    return Captions(id=name, captions=tuple(f"caption {i}" for i in range(count)))


def test_the_worker_perturbs_each_video_for_itself_by_its_captions_or_clips():
    both = worker()([captions("a", 32), captions("b", 32)])
    assert both == [*worker()([captions("a", 32)]), *worker()([captions("b", 32)])]
    (other_seed,) = worker(run={"seed": 1})([captions("a", 32)])
    assert len({row.perturbations for row in (*both, other_seed)}) == 3
    clip = Clip(group=0, first_shot=0, num_shots=1, start_seconds=0, end_seconds=1, key_frames=(0, 1))
    clips = Clips(id="a", path="a.mp4", duration_seconds=4, clips=(clip,) * 4)
    work = worker(perturbations={"rule": "paper"})
    (row,) = work([captions("a", 4)])
    assert [p.level for p in row.perturbations] == [16, 8, 4, 2] * 3
    assert work([clips]) == [row]


def test_a_video_without_perturbations_is_skipped_with_its_figures():
    (skipped,) = worker(perturbations={"kinds": ["shuffle"]})([captions("a", 2)])
    assert (skipped.id, skipped.stage, skipped.reason) == ("a", "perturbations", "nothing to perturb")
    assert "2 clips" in skipped.detail


def test_clips_are_replaced_by_those_of_one_other_film(tmp_path):
    """The film `a` has two segments, which do not replace each other; `short` has too few clips."""
    rows = [captions(name, count) for name, count in (("a-1", 8), ("a-2", 9), ("long", 20), ("short", 2))]
    RunStore(tmp_path).append("captions", rows)
    settings = {"perturbations": {"kinds": ["replace"]}}
    work = worker(tmp_path, **settings)
    (row, *_), (other_seed,) = work(rows), worker(tmp_path, run={"seed": 1}, **settings)(rows[:1])
    assert [(p.level, len(p.order), p.kept_share, p.kendall_distance) for p in row.perturbations] == [
        (8, 1, 0.125, 0), (4, 2, 0.25, 0), (2, 4, 0.5, 0)
    ]  # fmt: skip
    for made in row.perturbations:
        places, names, clips = zip(*made.replaced, strict=True)
        assert sorted([*made.order, *places]) == [*range(8)]
        assert set(names) == {"long"}
        assert [*clips] == sorted({*clips} & {*range(20)})
    assert work(rows[:1]) == [row]
    assert other_seed.perturbations[0].replaced != row.perturbations[0].replaced
    # No other film has 19 clips; the smallest perturbation needs ten.
    assert work([rows[2]])[0].reason == "nothing to perturb"


def test_clips_of_held_out_videos_are_never_shown_for_training_videos(tmp_path):
    rows = [captions(f"{number}-{part}", 8) for number in range(20) for part in range(2)]
    RunStore(tmp_path).append("captions", rows)
    names = [row.id for row in rows]
    shown = {
        (file_of(row.id), file_of(name))
        for row in worker(tmp_path, perturbations={"kinds": ["replace", "reverse"]})(rows)
        for made in row.perturbations
        for _, name, _ in made.replaced
    }
    # The same pairs serve every share.
    for share in (0.1, 0.3, 0.7):
        held_out = held_out_files(names, share, seed=0)
        assert not [pair for pair in shown if pair[0] not in held_out and pair[1] in held_out]
    assert len({one for one, _ in shown}) == 19, "only the video with the highest draw has no other"
