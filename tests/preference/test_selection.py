"""Rules over many pairs: duplicates, so many per video, held-out videos, lengths that give nothing away."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from tempo.config import PairsConfig
from tempo.core.records import Pair
from tempo.preference.selection import (
    LENGTH_STEP,
    balance_lengths,
    cap_videos,
    drop_duplicates,
    is_held_out,
    log_length_ratio,
    select_pairs,
)

KINDS = ("drop", "shuffle", "reverse")
LEVELS = (16, 8, 4, 2)


def pair(video, kind="shuffle", level=4, *, chosen=10, rejected=10, text=None):
    """A pair whose texts have so many words; `text` replaces the rejected one."""
    return Pair(
        id=f"{video}/{kind}-{level:02d}",
        video_id=video,
        video=f"{video}.mp4",
        prompt="p",
        chosen=" ".join(["c"] * chosen),
        rejected=text or " ".join([f"{kind}{level}"] * rejected),
        kind=kind,
        level=level,
        order=(1, 0),
        num_clips=4,
    )


def all_pairs(video):
    return [pair(video, kind, level) for kind in KINDS for level in LEVELS]


def ids(pairs):
    return {row.id for row in pairs}


def test_of_duplicates_the_hardest_level_stays():
    kept, drops = drop_duplicates([pair("v", level=level, text="same") for level in (16, 2, 8)])
    assert ids(kept) == {"v/shuffle-02"}
    assert {(drop.id, drop.reason, drop.detail) for drop in drops} == {
        ("v/shuffle-08", "duplicate", "same texts as v/shuffle-02"),
        ("v/shuffle-16", "duplicate", "same texts as v/shuffle-02"),
    }


def test_the_same_texts_of_another_video_or_with_another_chosen_are_no_duplicates():
    rows = [pair("v", text="same"), pair("w", text="same"), pair("v", "drop", chosen=11, text="same")]
    kept, drops = drop_duplicates(rows)
    assert ids(kept) == ids(rows)
    assert not drops


def test_duplicates_can_be_kept():
    rows = [pair("v", level=level, text="same") for level in (16, 2)]
    assert len(select_pairs(rows, PairsConfig(), seed=0).pairs) == 1
    assert len(select_pairs(rows, PairsConfig(drop_duplicates=False), seed=0).pairs) == 2


@pytest.mark.parametrize("limit", [1, 3, 4, 6, 12, 20])
def test_so_many_pairs_of_a_video_spread_over_kinds_and_levels(limit):
    rows = [*all_pairs("v"), *all_pairs("w")]
    kept, drops = cap_videos(rows, limit, seed=3)
    assert ids(kept) | {drop.id for drop in drops} == ids(rows)
    assert len(kept) + len(drops) == len(rows)
    for video in "vw":
        own = [row for row in kept if row.video_id == video]
        assert len(own) == min(limit, 12)
        for count, values in ((Counter(r.kind for r in own), KINDS), (Counter(r.level for r in own), LEVELS)):
            assert max(count[v] for v in values) - min(count[v] for v in values) <= 1
    assert {drop.detail for drop in drops} <= {f"12 pairs, max_per_video is {limit}"}


def test_choice_depends_on_seed_and_id_and_not_on_order():
    rows = [row for i in range(20) for row in all_pairs(f"v{i}")]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert ids(cap_videos(rows, 2, seed=0)[0]) == ids(cap_videos(shuffled, 2, seed=0)[0])
    assert ids(cap_videos(rows, 2, seed=0)[0]) != ids(cap_videos(rows, 2, seed=1)[0])
    alone = ids(cap_videos(all_pairs("v3"), 2, seed=0)[0])
    assert alone <= ids(cap_videos(rows, 2, seed=0)[0])


def test_held_out_videos_are_split_whole_and_about_as_many_as_asked():
    rows = [row for i in range(400) for row in (pair(f"v{i}"), pair(f"v{i}", "drop"))]
    made = select_pairs(rows, PairsConfig(held_out_share=0.25), seed=0)
    held, kept = {row.video_id for row in made.held_out}, {row.video_id for row in made.pairs}
    assert not held & kept
    assert len(held | kept) == 400
    assert 70 <= len(held) <= 130
    assert ids(made.pairs) | ids(made.held_out) == ids(rows)


def test_split_of_a_video_does_not_depend_on_the_others():
    rows = [pair(f"v{i}") for i in range(40)]
    whole = select_pairs(rows, PairsConfig(held_out_share=0.5), seed=0)
    half = select_pairs(rows[:20], PairsConfig(held_out_share=0.5), seed=0)
    assert ids(half.held_out) == ids(whole.held_out) & ids(rows[:20])
    assert not any(is_held_out(f"v{i}", 0.0, seed=0) for i in range(1000))


def random_lengths(count, seed):
    """Pairs of all kinds, drop pairs nearly always with the longer chosen answer."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        for kind in KINDS:
            for level in LEVELS:
                rejected = draw.randint(10, 90) if kind == "drop" else draw.randint(60, 100)
                rows.append(pair(f"v{i}", kind, level, chosen=80, rejected=rejected))
    return rows


def test_fair_lengths_are_balanced_in_every_kind_and_level_at_every_distance():
    rows = random_lengths(60, 0)
    kept, drops = balance_lengths(rows, seed=0)
    assert ids(kept) | {drop.id for drop in drops} == ids(rows)
    assert len(kept) + len(drops) == len(rows)
    balance = Counter()
    for row in kept:
        ratio = log_length_ratio(row)
        balance[row.kind, row.level, round(abs(ratio) / LENGTH_STEP)] += (ratio > 0) - (ratio < 0)
    assert set(balance.values()) == {0}
    assert {row.kind for row in kept} == set(KINDS)


def test_fair_keeps_pairs_of_equal_length_and_says_of_the_others_what_their_lengths_are():
    kept, drops = balance_lengths(
        [pair("a"), pair("b", chosen=20), pair("c", chosen=20), pair("d", rejected=20)], seed=0
    )
    assert "a/shuffle-04" in ids(kept)
    assert "d/shuffle-04" in ids(kept)
    assert len(kept) == 3
    (drop,) = drops
    assert (drop.stage, drop.reason) == ("pairs", "length gives it away")
    assert drop.detail == "20 against 10 words, no other shuffle pair of level 4 to balance it"


def test_fair_never_balances_a_drop_pair_with_another_kind_or_level():
    kept, _ = balance_lengths(
        [pair("a", "drop", chosen=20), pair("b", "shuffle", rejected=20), pair("c", "drop", 2, rejected=20)],
        seed=0,
    )
    assert kept == []


def test_fair_survives_empty_texts():
    kept, drops = balance_lengths([pair("a", chosen=0), pair("b", rejected=0)], seed=0)
    assert len(kept) + len(drops) == 2


def test_training_and_held_out_pairs_are_fair_each_by_itself_and_after_the_cap():
    made = select_pairs(
        random_lengths(80, 1), PairsConfig(length="fair", held_out_share=0.4, max_per_video=6), seed=0
    )
    for part in (made.pairs, made.held_out):
        signs = [log_length_ratio(row) for row in part if log_length_ratio(row)]
        assert signs
        assert sum(sign > 0 for sign in signs) * 2 == len(signs)


def test_paper_selection_keeps_everything_that_is_no_duplicate():
    rows = random_lengths(5, 2)
    made = select_pairs(rows, PairsConfig(), seed=0)
    assert made.pairs == sorted(rows, key=lambda row: row.id)
    assert (made.held_out, made.drops) == ([], [])


@pytest.mark.parametrize(
    "bad",
    [
        {"length": "even"},
        {"min_difference": -0.1},
        {"min_difference": 1.5},
        {"max_per_video": -1},
        {"held_out_share": 1.0},
        {"held_out_share": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        PairsConfig(**bad)
