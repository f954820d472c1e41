"""The property that all perturbations share, and the faults of the released rule (method.md, section 3)."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tempo.config import Config, PerturbationsConfig
from tempo.core.records import Captions, Clip, Clips, Skipped
from tempo.engine.types import Context
from tempo.preference.perturbations import (
    distinct_levels,
    kendall_distance,
    make_worker,
    perturb,
    perturb_all,
    perturb_as_released,
)

RELEASED = ("drop", "shuffle", "reverse")
KINDS = (*RELEASED, "swap")
LEVELS = (16, 8, 4, 2)

counts = st.integers(2, 64)
seeds = st.integers(0, 2**63 - 1)
level_lists = st.lists(st.integers(2, 70), min_size=1, max_size=8, unique=True)
# The same examples each time, and no database left in the folder that the tests are started from.
many = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def all_of(num_clips, *, levels=LEVELS, kinds=KINDS, seed=0):
    chosen = PerturbationsConfig(kinds=kinds, levels=tuple(levels))
    return perturb_all(num_clips, chosen, seed=seed)


def segments_of(order):
    """The order cut where it does not go on with the next clip: the fewest segments that explain it."""
    segments = [[order[0]]]
    for clip in order[1:]:
        if clip == segments[-1][-1] + 1:
            segments[-1].append(clip)
        else:
            segments.append([clip])
    return segments


@given(counts, level_lists, seeds)
@many
def test_no_perturbation_is_the_original_order(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed):
        assert made.order != tuple(range(num_clips))


@given(counts, level_lists, seeds)
@many
def test_orders_are_of_clips_that_exist_each_at_most_once(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed):
        assert made.num_clips == num_clips
        assert len(made.order) >= 1
        assert len(set(made.order)) == len(made.order)
        assert set(made.order) <= set(range(num_clips))


@given(counts, level_lists, seeds)
@many
def test_drop_keeps_the_order_of_what_remains(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed, kinds=("drop",)):
        assert list(made.order) == sorted(made.order)
        assert len(made.order) == max(1, num_clips // made.level) < num_clips


@given(counts, level_lists, seeds)
@many
def test_only_drop_loses_a_clip(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed, kinds=("shuffle", "reverse", "swap")):
        assert sorted(made.order) == list(range(num_clips))


@given(counts, level_lists, seeds)
@many
def test_reverse_turns_round_even_segments_as_many_as_the_level(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed, kinds=("reverse",)):
        segments = segments_of(made.order)
        sizes = [len(segment) for segment in segments]
        assert len(segments) == min(made.level, num_clips)
        assert max(sizes) - min(sizes) <= 1
        assert [clip for segment in reversed(segments) for clip in segment] == list(range(num_clips))


@given(counts, level_lists, seeds)
@many
def test_shuffle_cuts_into_at_most_as_many_segments_as_the_level(num_clips, levels, seed):
    """Fault 4: the released rule makes 15 blocks of 15 clips at level 8."""
    for made in all_of(num_clips, levels=levels, seed=seed, kinds=("shuffle",)):
        assert 2 <= len(segments_of(made.order)) <= min(made.level, num_clips)


@given(counts, level_lists, seeds)
@many
def test_shuffle_moves_the_segments_that_reverse_turns_round(num_clips, levels, seed):
    orders = {(p.kind, p.level): p.order for p in all_of(num_clips, levels=levels, seed=seed)}
    for (kind, level), order in orders.items():
        if kind == "shuffle":
            # Both cut at the same places, so a segment of one lies unbroken in the other.
            for segment in segments_of(orders["reverse", level]):
                place = order.index(segment[0])
                assert list(order[place : place + len(segment)]) == segment


@given(counts, level_lists, seeds)
@many
def test_shuffle_is_never_the_reverse_of_its_level(num_clips, levels, seed):
    """Fault 2: of two segments the only other order is the reverse."""
    orders = {(p.kind, p.level): p.order for p in all_of(num_clips, levels=levels, seed=seed)}
    for kind, level in orders:
        if kind == "shuffle":
            assert orders["shuffle", level] != orders["reverse", level]


@given(counts, level_lists, seeds)
@many
def test_swap_lets_two_clips_change_places_and_all_others_stay(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed, kinds=("swap",)):
        first, second = (clip for place, clip in enumerate(made.order) if place != clip)
        assert (made.order[first], made.order[second]) == (second, first)
        assert abs(first - second) == min(made.level // 2, num_clips - 2)
        assert made.order != tuple(range(num_clips))[::-1]


def effect_of(made):
    """What its level came to: clips kept, distance of those that changed places, or segments."""
    if made.kind == "swap":
        return max(abs(place - clip) for place, clip in enumerate(made.order))
    return len(made.order) if made.kind == "drop" else min(made.level, made.num_clips)


@given(counts, level_lists, seeds)
@many
def test_levels_of_one_kind_disturb_differently(num_clips, levels, seed):
    """Fault 1: of 4 to 7 clips the released levels 4, 8 and 16 are the same."""
    made = all_of(num_clips, levels=levels, seed=seed)
    for kind in KINDS:
        of_kind = [p for p in made if p.kind == kind]
        effects = [effect_of(p) for p in of_kind]
        assert len(set(effects)) == len(effects)
        assert len({p.level for p in of_kind}) == len(of_kind)
        assert len({p.order for p in of_kind}) == len(of_kind)


@given(counts, level_lists, seeds)
@many
def test_larger_level_disturbs_more(num_clips, levels, seed):
    made = all_of(num_clips, levels=levels, seed=seed)
    turned = {kind: lambda p: p.kendall_distance for kind in ("reverse", "swap")}
    for kind, measure in {"drop": lambda p: -len(p.order), **turned}.items():
        easy_to_hard = [measure(p) for p in made if p.kind == kind]
        assert easy_to_hard == sorted(easy_to_hard, reverse=True)
        assert len(set(easy_to_hard)) == len(easy_to_hard)


@given(counts, level_lists)
@many
def test_levels_come_from_those_asked_for_and_go_from_easy_to_hard(num_clips, levels):
    for kind in KINDS:
        chosen = distinct_levels(num_clips, kind, levels)
        assert set(chosen) <= set(levels)
        assert chosen == sorted(chosen, reverse=True)
        assert chosen == distinct_levels(num_clips, kind, levels[::-1])


@pytest.mark.parametrize(
    ("num_clips", "kind", "expected"),
    [
        (1, "drop", []),
        (1, "shuffle", []),
        (1, "reverse", []),
        (2, "drop", [2]),
        (2, "shuffle", []),
        (2, "reverse", [2]),
        (3, "shuffle", [4]),
        (4, "drop", [4, 2]),
        (4, "shuffle", [4]),
        (4, "reverse", [4, 2]),
        (5, "shuffle", [8, 4]),
        (7, "drop", [4, 2]),
        (7, "reverse", [8, 4, 2]),
        (8, "drop", [8, 4, 2]),
        (8, "reverse", [8, 4, 2]),
        (9, "reverse", [16, 8, 4, 2]),
        (15, "shuffle", [16, 8, 4]),
        (15, "drop", [8, 4, 2]),
        (16, "drop", [16, 8, 4, 2]),
        (16, "shuffle", [16, 8, 4]),
        (32, "reverse", [16, 8, 4, 2]),
        (2, "swap", []),
        (3, "swap", [2]),
        (4, "swap", [4, 2]),
        (7, "swap", [16, 8, 4, 2]),
        (16, "swap", [16, 8, 4, 2]),
    ],
)
def test_of_levels_with_the_same_effect_the_smallest_stays(num_clips, kind, expected):
    assert distinct_levels(num_clips, kind, LEVELS) == expected


@pytest.mark.parametrize(
    ("num_clips", "level", "expected"),
    [
        (4, 4, (3, 2, 1, 0)),
        (4, 2, (2, 3, 0, 1)),
        (5, 2, (3, 4, 0, 1, 2)),
        (7, 4, (6, 4, 5, 2, 3, 0, 1)),
        (3, 16, (2, 1, 0)),
    ],
)
def test_reverse_by_hand(num_clips, level, expected):
    assert perturb(num_clips, "reverse", level, rng=np.random.default_rng(0)).order == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 2], 0.0),
        ([2, 1, 0], 1.0),
        ([1, 0, 2], 1 / 3),
        ([2, 3, 0, 1], 4 / 6),
        ([0, 5], 0.0),
        ([5, 0], 1.0),
        ([3], 0.0),
        ([], 0.0),
    ],
)
def test_kendall_distance_is_the_share_of_pairs_turned_round(order, expected):
    assert kendall_distance(order) == pytest.approx(expected)


@given(st.permutations(range(8)))
@many
def test_kendall_distance_of_an_order_and_its_reverse_make_one(order):
    assert kendall_distance(order) + kendall_distance(order[::-1]) == pytest.approx(1)


@given(counts, level_lists, seeds)
@many
def test_figures_of_a_perturbation_are_those_of_its_order(num_clips, levels, seed):
    for made in all_of(num_clips, levels=levels, seed=seed):
        pairs = list(itertools.combinations(made.order, 2))
        turned = sum(first > second for first, second in pairs)
        assert made.kendall_distance == pytest.approx(turned / len(pairs) if pairs else 0, abs=6e-5)
        assert made.kept_share == pytest.approx(len(made.order) / num_clips, abs=6e-5)
        assert (made.kendall_distance == 0) == (made.kind == "drop")
        assert (made.kept_share == 1) == (made.kind != "drop")


@given(counts, seeds)
@many
def test_same_seed_gives_the_same_perturbations(num_clips, seed):
    assert all_of(num_clips, seed=seed) == all_of(num_clips, seed=seed)


@given(st.integers(4, 64), seeds)
@many
def test_each_perturbation_has_its_own_draw(num_clips, seed):
    """Asking for fewer levels or kinds does not change the ones that are still asked for."""
    alone = {(p.kind, p.level): p for p in all_of(num_clips, kinds=("shuffle",), levels=(16, 4), seed=seed)}
    both = {(p.kind, p.level): p for p in all_of(num_clips, seed=seed)}
    shared = alone.keys() & both.keys()
    assert ("shuffle", 4) in shared
    assert all(alone[key] == both[key] for key in shared)


def alone(num_clips, level, seed):
    (made,) = all_of(num_clips, levels=(level,), kinds=("shuffle",), seed=seed)
    return made


def test_a_shuffle_that_came_at_a_smaller_level_is_drawn_again_and_no_other_is():
    """Of five clips, shuffles of five and of four segments may be the same order."""
    num_redrawn = 0
    for seed in range(600):
        easy, hard = all_of(5, kinds=("shuffle",), seed=seed)
        assert easy.order != hard.order
        assert hard == alone(5, 4, seed)
        if easy != alone(5, 8, seed):
            assert alone(5, 8, seed).order == hard.order
            num_redrawn += 1
    assert num_redrawn > 0


def test_where_small_levels_have_few_orders_there_is_still_another():
    """Three segments of six clips have four orders besides; all larger levels can make each of them."""
    for seed in range(300):
        made = all_of(6, levels=(3, 4, 5, 6), kinds=("shuffle",), seed=seed)
        assert len({p.order for p in made}) == 4


def test_another_seed_draws_others():
    orders = {next(p.order for p in all_of(20, kinds=("shuffle",), seed=seed)) for seed in range(10)}
    assert len(orders) > 5


def test_every_clip_may_be_the_one_that_drop_keeps():
    kept = {made.order for seed in range(100) for made in all_of(4, kinds=("drop",), levels=(4,), seed=seed)}
    assert kept == {(0,), (1,), (2,), (3,)}


def test_shuffle_of_three_segments_finds_all_four_other_orders():
    made = {p.order for seed in range(100) for p in all_of(3, kinds=("shuffle",), levels=(3,), seed=seed)}
    assert made == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)}


@pytest.mark.parametrize("num_clips", range(2, 65))
def test_default_rule_for_every_number_of_clips_kind_and_level(num_clips):
    made = all_of(num_clips, seed=num_clips)
    assert {(p.kind, p.level) for p in made} == {
        (kind, level) for kind in KINDS for level in distinct_levels(num_clips, kind, LEVELS)
    }
    for p in made:
        assert p.order != tuple(range(num_clips))
    for kind in ("drop", "reverse"):
        effects = [(p.kept_share, p.kendall_distance) for p in made if p.kind == kind]
        assert len(set(effects)) == len(effects)


def as_released(num_clips, seed=0):
    """The orders of the rule `paper` by kind and level."""
    made = perturb_all(num_clips, PerturbationsConfig(rule="paper"), seed=seed)
    assert [(p.kind, p.level) for p in made] == [(kind, level) for kind in RELEASED for level in LEVELS]
    return {(p.kind, p.level): p.order for p in made}


@pytest.mark.parametrize("num_clips", range(2, 65))
def test_paper_rule_makes_every_kind_at_every_level_from_blocks(num_clips):
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
            places = [order.index(block[0]) for block in blocks]
            assert [order[p : p + len(b)] for p, b in zip(places, blocks, strict=True)] == blocks


@pytest.mark.parametrize(
    ("counts_of_clips", "collapsed"),
    [(range(2, 4), (16, 8, 4, 2)), (range(4, 8), (16, 8, 4)), (range(8, 16), (16, 8)), (range(16, 65), ())],
)
def test_paper_rule_collapses_levels_as_the_released_code_does(counts_of_clips, collapsed):
    """Fault 1: the same reverse, and as many clips dropped; only from 16 clips on are there four levels."""
    for num_clips in counts_of_clips:
        orders = as_released(num_clips)
        reversed_orders = {level: orders["reverse", level] for level in LEVELS}
        kept = {level: len(orders["drop", level]) for level in LEVELS}
        for effects in (reversed_orders, kept):
            assert len({effects[level] for level in collapsed}) <= 1
            assert len(set(effects.values())) == len(LEVELS) - max(0, len(collapsed) - 1)


@pytest.mark.parametrize("num_clips", [2, 4, 10, 32, 64])
def test_half_of_the_paper_rules_hardest_shuffles_change_nothing(num_clips):
    """Fault 2: two blocks have two orders, as filmed and reversed."""
    reverse = as_released(num_clips)["reverse", 2]
    orders = [as_released(num_clips, seed)["shuffle", 2] for seed in range(100)]
    unchanged = orders.count(tuple(range(num_clips)))
    assert 30 <= unchanged <= 70
    assert orders.count(reverse) == 100 - unchanged


def test_paper_rule_has_no_swap():
    with pytest.raises(ValidationError, match="'swap' is not of the released rule"):
        PerturbationsConfig(rule="paper", kinds=KINDS)


def test_paper_rule_overshoots_the_level():
    """Fault 4: 15 blocks of 15 clips at level 8; with an odd number three blocks at level 2."""
    assert as_released(15)["reverse", 8] == tuple(range(15))[::-1]
    assert as_released(5)["reverse", 2] == (4, 2, 3, 0, 1)


def test_an_unchanged_shuffle_says_so_in_its_figures():
    seeds = (np.random.default_rng(seed) for seed in range(100))
    made = [perturb_as_released(4, "shuffle", 2, rng=rng) for rng in seeds]
    assert {(p.kept_share, p.kendall_distance) for p in made} == {(1.0, 0.0), (1.0, round(4 / 6, 4))}


def test_perturbation_is_frozen():
    with pytest.raises(ValidationError):
        all_of(4)[0].order = (0,)


def worker(**sections):
    config = Config.model_validate({"videos": {"paths": ["unused"]}, **sections})
    return make_worker(Context(config, Path("unused")))


def captions(name, count):
    return Captions(id=name, captions=tuple(f"caption {i}" for i in range(count)))


def test_worker_answers_each_video_in_order_whatever_it_comes_with():
    work = worker()
    together = work([captions("a", 6), captions("b", 9)])
    assert [row.id for row in together] == ["a", "b"]
    assert [row.num_clips for row in together] == [6, 9]
    assert together == [*work([captions("a", 6)]), *worker()([captions("b", 9)])]


def test_where_nothing_is_captioned_the_clips_are_counted():
    clip = Clip(group=0, first_shot=0, num_shots=1, start_seconds=0, end_seconds=1, key_frames=(0, 1))
    clips = Clips(id="a", path="a.mp4", duration_seconds=6, clips=(clip,) * 6)
    assert worker()([clips]) == worker()([captions("a", 6)])


def test_worker_takes_the_rule_from_the_config():
    (row,) = worker(perturbations={"rule": "paper"})([captions("a", 4)])
    assert [p.level for p in row.perturbations] == [16, 8, 4, 2] * 3


def test_two_videos_and_two_seeds_have_their_own_draws():
    one, other = worker()([captions("a", 32), captions("b", 32)])
    (again,) = worker(run={"seed": 1})([captions("a", 32)])
    assert len({one.perturbations, other.perturbations, again.perturbations}) == 3


@pytest.mark.parametrize(("count", "kinds"), [(1, KINDS), (2, ("shuffle",))])
def test_video_with_nothing_to_perturb_is_dropped_with_its_figures(count, kinds):
    (dropped,) = worker(perturbations={"kinds": kinds})([captions("a", count)])
    assert isinstance(dropped, Skipped)
    assert (dropped.id, dropped.stage, dropped.reason) == ("a", "perturbations", "nothing to perturb")
    assert f"{count} clips" in dropped.detail


def test_module_needs_no_torch():
    script = "import sys, tempo.preference.perturbations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
