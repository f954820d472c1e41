"""The order of examples: each once per epoch, the same after a stop; and batches that are read ahead."""

import math
import threading
from collections import Counter
from itertools import islice
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_material import phase

from tempo.config.running import Order
from tempo.core.hashing import derive_seed
from tempo.training.examples import Example
from tempo.training.order import NUM_RECENT, load_batches, plan_batches


def adaptive(**changes):
    return phase(**{"order": "adaptive", "grouping": "level"} | changes)


def examples_of(num_pairs=1, **sizes):
    """`_16=3`: three examples of level 16."""
    return [
        Example(f"v{i}/{level[1:]}", f"v{i}", labels=(("drop", int(level[1:])),) * num_pairs)
        for level, size in sizes.items()
        for i in range(size)
    ]


EXAMPLES = examples_of(_2=6, _16=6, _4=6)


def level(example):
    return example.labels[0][1]


def take(examples, settings, is_right=lambda example: 1, *, seed=0, rows=None):
    """All batches, with the metrics of each appended to `rows` after it, as in training.

    `is_right(example)` is 1 or 0, the accuracy of its pairs.
    """
    rows = [] if rows is None else rows
    batches = []
    for batch in islice(plan_batches(examples, settings, rows, seed=seed), len(rows), None):
        batches.append(batch)
        right = {}
        for example in batch:
            right.setdefault(level(example), []).append(is_right(example))
        rows.append({f"rewards/accuracies/level_{key}": sum(row) / len(row) for key, row in right.items()})
    return batches


def levels(batches):
    return [[level(example) for example in batch] for batch in batches]


def test_random_order_is_a_seeded_permutation_per_epoch():
    """Written out: a change here changes every result."""
    found = take(EXAMPLES, phase(epochs=2, batch_size=4), seed=3)
    expected = []
    for epoch in range(2):
        generator = torch.Generator().manual_seed(derive_seed(3, "p", "order", epoch))
        order = [EXAMPLES[i] for i in torch.randperm(len(EXAMPLES), generator=generator).tolist()]
        expected += [order[i : i + 4] for i in range(0, len(order), 4)]
    assert found == expected


@pytest.mark.parametrize(
    ("is_right", "expected"),
    [
        (lambda example: 0, [[16, 16]] * 3 + [[4, 4]] * 3 + [[2, 2]] * 3),
        # A level is left one batch after it was mastered: that batch was chosen before.
        (lambda example: 1, [[16, 16]] * 2 + [[4, 4]] * 2 + [[2, 2]] * 3 + [[4, 4]] + [[16, 16]]),
        (lambda example: level(example) != 4, [[16, 16]] * 2 + [[4, 4]] * 3 + [[2, 2]] * 3 + [[16, 16]]),
    ],
    ids=["nothing mastered", "everything mastered", "level 4 not mastered"],
)
def test_an_adaptive_order_moves_on_when_a_level_is_mastered(is_right, expected):
    assert levels(take(EXAMPLES, adaptive(), is_right)) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [("easy_to_hard", [16] * 6 + [4] * 6 + [2] * 6), ("hard_to_easy", [2] * 6 + [4] * 6 + [16] * 6)],
)
def test_an_order_by_level_finishes_each_level_whatever_its_accuracy(order, expected):
    settings = adaptive(order=order, batch_size=4, epochs=2)
    first, second = (take(EXAMPLES, settings, seed=seed) for seed in (0, 1))
    assert [level for batch in levels(first) for level in batch] == expected * 2
    assert levels(first) == levels(second)
    assert first != second, "the examples of a level are not shuffled"


def test_batches_are_filled_across_levels_and_an_epoch_starts_with_the_easiest_again():
    settings = adaptive(batch_size=4, epochs=2)
    found = take(examples_of(_16=3, _4=2, _2=1), settings, lambda example: 0)
    assert levels(found) == [[16, 16, 16, 4], [4, 2]] * 2


def test_only_recent_batches_count():
    """The first step has accuracy 0 whatever the model knows, and must not count forever."""
    right = iter([0, *[1] * 99])
    many = examples_of(_16=20, _2=20)
    found = take(many, adaptive(batch_size=1, mastered_accuracy=1.0), lambda _: next(right))
    assert levels(found)[: NUM_RECENT + 3] == [[16]] * (NUM_RECENT + 2) + [[2]]


@pytest.mark.parametrize(("bound", "last"), [(7 / 9, 2), (7 / 9 + 0.01, 16)])
def test_accuracy_is_a_mean_over_pairs_and_the_bound_is_enough(bound, last):
    """One of three pairs is right, then three and three: 7 of 9."""
    examples = examples_of(num_pairs=3, _16=9, _2=9)
    rows = [{"rewards/accuracies/level_16": value} for value in (0.333333, 1.0, 1.0)]
    found = islice(plan_batches(examples, adaptive(batch_size=1, mastered_accuracy=bound), rows, seed=0), 5)
    assert levels(found) == [[16]] * 4 + [[last]]


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(0, 7)] * 3),
    st.integers(1, 5),
    st.integers(0, 40),
    st.integers(0, 9),
    st.sampled_from(get_args(Order)),
)
def test_every_example_comes_once_per_epoch_and_a_stop_anywhere_changes_nothing(
    sizes, batch_size, stop, seed, order
):
    examples = examples_of(_16=sizes[0], _4=sizes[1], _2=sizes[2])
    settings = adaptive(order=order, batch_size=batch_size, epochs=2, mastered_accuracy=0.6)

    def by_chance(example):
        return derive_seed(seed, example.id) % 2

    rows = []
    whole = take(examples, settings, by_chance, seed=seed, rows=rows)
    per_epoch = math.ceil(len(examples) / batch_size)
    assert len(whole) == 2 * per_epoch
    for own in (whole[:per_epoch], whole[per_epoch:]):
        assert Counter(example.id for batch in own for example in batch) == Counter(e.id for e in examples)
        assert all(len(batch) == batch_size for batch in own[:-1])
    assert take(examples, settings, by_chance, seed=seed, rows=rows[:stop]) == whole[stop:]


def load(sizes, load_one=lambda example: example.id, **share):
    """Loads batches of these sizes."""
    rest = iter([Example(f"v{i}/2", f"v{i}") for i in range(sum(sizes))])
    batches = iter([list(islice(rest, size)) for size in sizes])
    return load_batches(batches, load_one, **{"rank": 0, "num_processes": 1} | share)


def ids(batches):
    return [[group for _, group in batch.examples] for batch in batches]


def test_processes_share_each_batch_and_one_without_an_example_gets_a_filler():
    assert ids(load((2, 2, 1))) == [["v0/2", "v1/2"], ["v2/2", "v3/2"], ["v4/2"]]
    halves = [list(load((4, 1), rank=rank, num_processes=2)) for rank in (0, 1)]
    assert [ids(half) for half in halves] == [[["v0/2", "v2/2"], ["v4/2"]], [["v1/2", "v3/2"], ["v4/2"]]]
    assert [[batch.is_filler for batch in half] for half in halves] == [[False, False], [False, True]]
    assert list(load(())) == []


def test_the_next_batch_is_loaded_while_this_one_is_in_use():
    loaded = threading.Event()

    def load_one(example):
        if example.id == "v1/2":
            loaded.set()
        return example.id

    batches = load((1, 1), load_one)
    next(batches)
    assert loaded.wait(5)
    assert ids(batches) == [["v1/2"]]
