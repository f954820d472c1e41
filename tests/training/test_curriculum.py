"""The order of lessons: each once an epoch, and where it stopped is where it goes on."""

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo.config import DpoPhase, SftPhase
from tempo.core.seeds import derive_seed
from tempo.training.curriculum import NUM_RECENT, Curriculum
from tempo.training.groups import Label, Lesson
from tempo.training.losses import Metrics


def phase(**changes):
    settings = {"name": "p", "objective": "dpo", "learning_rate": 1e-3, "order": "adaptive", "batch_size": 2}
    return DpoPhase.model_validate(settings | changes)


def lessons_of(**sizes):
    """`_16=3`: three lessons of level 16."""
    return [
        Lesson(f"v{i}/{level[1:]}", f"v{i}", labels=(Label("drop", int(level[1:])),))
        for level, size in sizes.items()
        for i in range(size)
    ]


LESSONS = lessons_of(_2=6, _16=6, _4=6)


def level(lesson):
    (label,) = lesson.labels
    return label.level


def chance(lesson, seed):
    """0, 0.5 or 1, by the seed and the lesson alone."""
    return derive_seed(seed, lesson.id) % 3 / 2


def accuracy(batch, right):
    """What a batch came to: `right(lesson)` is the accuracy of its pairs."""
    metrics = Metrics()
    for lesson in batch:
        metrics.count(f"rewards/accuracies/level_{level(lesson)}", right(lesson))
    return metrics


def take(curriculum, right):
    """All batches that are left."""
    batches = []
    while batch := curriculum.next_batch():
        batches.append(batch)
        curriculum.feedback(accuracy(batch, right))
    return batches


def levels(batches):
    return [[level(lesson) for lesson in batch] for batch in batches]


def test_random_order_is_a_seeded_permutation_per_epoch():
    """Written out: a change here changes every result."""
    settings = phase(order="random", epochs=2, batch_size=4)
    found = take(Curriculum(LESSONS, settings, seed=3), lambda _: 1.0)
    expected = []
    for epoch in range(2):
        generator = torch.Generator().manual_seed(derive_seed(3, "p", "order", epoch))
        order = [LESSONS[i] for i in torch.randperm(len(LESSONS), generator=generator).tolist()]
        expected += [order[i : i + 4] for i in range(0, len(order), 4)]
    assert found == expected


def test_lessons_without_levels_come_at_random():
    questions = [Lesson(f"v{i}", f"v{i}", questions=(("q", "a"),)) for i in range(5)]
    settings = SftPhase(name="p", objective="sft", learning_rate=1e-3, batch_size=2)
    curriculum, batches = Curriculum(questions, settings, seed=0), []
    while batch := curriculum.next_batch():
        batches.append(batch)
        curriculum.feedback(Metrics())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(lesson.id for batch in batches for lesson in batch) == [lesson.id for lesson in questions]


def test_nothing_mastered_is_easy_to_hard():
    assert levels(take(Curriculum(LESSONS, phase(), seed=0), lambda _: 0.0)) == (
        [[16, 16]] * 3 + [[4, 4]] * 3 + [[2, 2]] * 3
    )


def test_everything_mastered_goes_to_the_hardest_and_comes_back_hardest_first():
    assert levels(take(Curriculum(LESSONS, phase(), seed=0), lambda _: 1.0)) == (
        [[16, 16], [4, 4]] + [[2, 2]] * 3 + [[4, 4]] * 2 + [[16, 16]] * 2
    )


def test_a_level_that_is_not_mastered_is_used_up_first():
    assert levels(take(Curriculum(LESSONS, phase(), seed=0), lambda lesson: float(level(lesson) != 4))) == (
        [[16, 16]] + [[4, 4]] * 3 + [[2, 2]] * 3 + [[16, 16]] * 2
    )


def test_batches_are_filled_across_levels():
    found = levels(
        take(Curriculum(lessons_of(_16=3, _4=2, _2=1), phase(batch_size=4), seed=0), lambda _: 0.0)
    )
    assert found == [[16, 16, 16, 4], [4, 2]]


def feed(curriculum, *accuracies):
    """Batches with these accuracies at whatever level they are of."""
    found = []
    for right in accuracies:
        batch = curriculum.next_batch()
        found += levels([batch])[0]
        curriculum.feedback(accuracy(batch, lambda _, right=right: right))
    return found


def test_only_recent_batches_count():
    """The first step is at accuracy 0 whatever the model knows: it must not weigh for ever."""
    many = lessons_of(_16=20, _2=20)
    start = [0.0, *[1.0] * NUM_RECENT]
    found = feed(Curriculum(many, phase(batch_size=1, mastered_accuracy=1.0), seed=0), *start, 0.0)
    assert found == [16] * (NUM_RECENT + 1) + [2]


def test_the_mean_is_over_pairs_and_reaching_the_bound_is_enough():
    curriculum = Curriculum(lessons_of(_16=8, _2=8), phase(mastered_accuracy=0.75), seed=0)
    name = "rewards/accuracies/level_16"
    for total, count, following in ((1.0, 3, 16), (5.0, 5, 2)):
        curriculum.next_batch()
        curriculum.feedback(Metrics({name: (total, count)}))
        assert curriculum.state_dict()["present"] == {16: 0, 2: 1}[following]


def test_accuracies_of_other_levels_are_no_news_of_the_present_one():
    curriculum = Curriculum(LESSONS, phase(), seed=0)
    before = curriculum.state_dict()
    curriculum.feedback(Metrics({"rewards/accuracies/level_2": (9.0, 9), "rewards/accuracies": (9.0, 9)}))
    assert curriculum.state_dict() == before


def test_an_epoch_begins_again_with_the_easiest():
    found = levels(take(Curriculum(lessons_of(_16=2, _2=2), phase(epochs=2), seed=0), lambda _: 1.0))
    assert found == [[16, 16], [2, 2]] * 2


SIZES = st.tuples(*[st.integers(0, 7)] * 3)


@settings(deadline=None, max_examples=60)
@given(
    SIZES, st.integers(1, 5), st.integers(1, 3), st.integers(0, 9), st.sampled_from(["random", "adaptive"])
)
def test_every_lesson_comes_once_an_epoch_in_full_batches(sizes, batch_size, epochs, seed, order):
    lessons = lessons_of(_16=sizes[0], _4=sizes[1], _2=sizes[2])
    settings = phase(order=order, batch_size=batch_size, epochs=epochs)
    curriculum = Curriculum(lessons, settings, seed=seed)
    batches = take(curriculum, lambda lesson: chance(lesson, seed))
    assert len(batches) == curriculum.num_batches
    per_epoch = math.ceil(len(lessons) / batch_size)
    for epoch in range(epochs):
        own = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert Counter(lesson.id for batch in own for lesson in batch) == Counter(x.id for x in lessons)
        assert all(len(batch) == batch_size for batch in own[:-1])


@settings(deadline=None, max_examples=60)
@given(
    SIZES, st.integers(1, 4), st.integers(0, 40), st.integers(0, 9), st.sampled_from(["random", "adaptive"])
)
def test_a_stop_anywhere_changes_nothing(sizes, batch_size, stop, seed, order):
    lessons = lessons_of(_16=sizes[0], _4=sizes[1], _2=sizes[2])
    bound = {"mastered_accuracy": 0.6} if order == "adaptive" else {}
    settings = phase(order=order, batch_size=batch_size, epochs=2, **bound)

    def right(lesson):
        return chance(lesson, seed)

    whole = take(Curriculum(lessons, settings, seed=seed), right)
    stopped = Curriculum(lessons, settings, seed=seed)
    before = []
    for _ in range(min(stop, len(whole))):
        before.append(stopped.next_batch())
        stopped.feedback(accuracy(before[-1], right))
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = Curriculum(lessons, settings, seed=seed)
    resumed.load_state(state)
    assert before + take(resumed, right) == whole
    # What was handed out is a copy: going on must not have changed it.
    assert state == json.loads(json.dumps(stopped.state_dict()))


def test_a_stop_does_not_forget_what_was_not_mastered():
    many, settings = lessons_of(_16=9, _2=9), phase(batch_size=1)
    stopped, resumed = (Curriculum(many, settings, seed=0) for _ in range(2))
    feed(stopped, 0.0, 0.0)
    resumed.load_state(stopped.state_dict())
    assert feed(resumed, 1.0, 1.0) == [16, 16]


def test_the_state_of_other_lessons_is_refused_by_the_phase():
    state = Curriculum(LESSONS, phase(), seed=0).state_dict()
    with pytest.raises(ValueError, match=r"phase 'p'.*\[6, 6, 6\].*\[6, 6, 5\].*begins again"):
        Curriculum(LESSONS[1:], phase(), seed=0).load_state(state)


def test_a_level_that_no_lesson_has_is_no_level():
    found = take(Curriculum(lessons_of(_4=3), phase(levels=[16, 4]), seed=0), lambda _: 1.0)
    assert levels(found) == [[4, 4], [4]]


def test_another_seed_takes_the_lessons_of_a_level_in_another_order():
    many = lessons_of(_16=20, _2=20)
    found = [
        [lesson.id for batch in take(Curriculum(many, phase(), seed=seed), lambda _: 0.0) for lesson in batch]
        for seed in (0, 1)
    ]
    assert found[0] != found[1]
