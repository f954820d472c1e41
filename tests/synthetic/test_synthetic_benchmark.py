"""The embedded benchmark: right answers are true to the script, and no text gives them away."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
from sample_material import is_true

from tempo.synthetic import language
from tempo.synthetic.benchmark import conflicting_samples, story_samples, twin
from tempo.synthetic.world import ACTIONS, make_story

NUM_STORIES = 400
STORIES = [make_story(0, 1_000_000 + i, num_shots=(4, 16)) for i in range(NUM_STORIES)]
ASKED = [(story, story_samples(story, seed=0, number=i)) for i, story in enumerate(STORIES)]
SAMPLES = [sample for _, samples in ASKED for sample in samples]
ASPECTS = (*ACTIONS, "event_order", "static")
FORMATS = ("multiple_choice", "yes_no", "caption_matching")


def by_kind(samples):
    """Samples by aspect, format and number of options."""
    kinds = defaultdict(list)
    for sample in samples:
        kinds[sample.aspect, sample.format, len(sample.options)].append(sample)
    return kinds


def near(share, num_samples):
    return pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / num_samples))


def test_the_right_option_and_no_other_is_true_to_the_script():
    for story, samples in ASKED:
        for sample in samples:
            truths = [is_true(story.events, sample.question, option) for option in sample.options]
            assert truths == [i == sample.answer for i in range(len(sample.options))], sample


def test_options_differ_and_all_aspects_that_a_story_shows_are_asked():
    kinds = {(sample.aspect, sample.format) for sample in SAMPLES}
    assert kinds == {(a, f) for a in ASPECTS for f in FORMATS} - {("static", "caption_matching")}
    for story, samples in ASKED:
        shown = {event.aspect for event in story.events} | {"event_order", "static"}
        assert {sample.aspect for sample in samples} == shown
        assert {sample.video for sample in samples} == {f"{story.id}.mp4"}
        for sample in samples:
            assert len(set(sample.options)) == len(sample.options) in (2, 4)


def test_answers_are_balanced():
    """Over the places among the options, yes and no, and the object named first."""
    for kind, samples in by_kind(SAMPLES).items():
        counts = Counter(sample.answer for sample in samples)
        for place in range(kind[2]):
            assert counts[place] / len(samples) == near(1 / kind[2], len(samples)), kind
        if kind[1] == "yes_no":
            is_yes = [sample.options[sample.answer] == "Yes." for sample in samples]
            assert abs(sum(is_yes) / len(is_yes) - 0.5) < 0.05, kind
    named_first = [
        sample.question.split(" the ")[1].startswith(sample.options[sample.answer][4:-1])
        for sample in SAMPLES
        if sample.question.startswith("Which comes first")
    ]
    assert sum(named_first) == NUM_STORIES / 2


@pytest.mark.parametrize("baseline", ["most often right", "longest", "shortest", "first in the alphabet"])
def test_a_text_only_baseline_scores_near_chance(baseline):
    """It learns from one half of the benchmark how often each option is right, and is tested on the other."""
    half = len(SAMPLES) // 2
    right_texts = Counter(sample.options[sample.answer] for sample in SAMPLES[:half])
    offered = Counter(option for sample in SAMPLES[:half] for option in sample.options)
    value = {
        "most often right": lambda text: (right_texts[text] + 0.5) / (offered[text] + 1),
        "longest": len,
        "shortest": lambda text: -len(text),
        "first in the alphabet": lambda text: [-ord(letter) for letter in text],
    }[baseline]
    for kind, samples in by_kind(SAMPLES[half:]).items():
        right = 0.0
        for sample in samples:
            values = [value(option) for option in sample.options]
            best = [i for i, one in enumerate(values) if one == max(values)]
            right += (sample.answer in best) / len(best)
        assert right / len(samples) == near(1 / kind[2], len(samples)), kind


def test_a_conflicting_group_shares_its_options_and_each_video_has_its_own_order():
    for story in STORIES:
        one, other = conflicting_samples(story)
        assert (one.group, one.question, one.options) == (other.group, other.question, other.options)
        for shown, sample in ((story, one), (twin(story), other)):
            truth = language.fuse([language.caption(event) for event in shown.events])
            assert (sample.options[sample.answer], sample.video) == (truth, f"{shown.id}.mp4")
