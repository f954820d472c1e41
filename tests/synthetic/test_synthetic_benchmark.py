"""The embedded benchmark: right answers are true to the script, and no text gives them away."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
from sample_material import is_true

from tempo.synthetic import language
from tempo.synthetic.benchmark import conflicting_samples, conflicting_stories, story_samples
from tempo.synthetic.world import ACTIONS, make_story

NUM_STORIES = 400
STORIES = [make_story(0, 1_000_000 + i, num_shots=(4, 16)) for i in range(NUM_STORIES)]
ASKED = [(story, story_samples(story, seed=0, number=i)) for i, story in enumerate(STORIES)]
SAMPLES = [sample for _, samples in ASKED for sample in samples]
FORMATS = ("multiple_choice", "yes_no", "caption_matching")
KINDS = {(aspect, form) for aspect in ACTIONS for form in FORMATS}
KINDS |= {(aspect, form) for aspect in ("static", "first_of_two") for form in FORMATS[:2]}
KINDS |= {("event_order", "caption_matching"), ("before_after", "before"), ("before_after", "after")}


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
    assert kinds == KINDS
    for story, samples in ASKED:
        shown = {event.aspect for event in story.events} | {aspect for aspect, _ in KINDS} - {*ACTIONS}
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


def test_a_conflicting_group_shares_its_options_and_each_video_has_its_own():
    kinds = Counter()
    aspects = Counter(sample.aspect for sample in SAMPLES)
    for number, story in enumerate(STORIES):
        for kind, conflicting in conflicting_stories(story, number=number).items():
            one, other = conflicting_samples(story, conflicting, kind)
            assert (one.group, one.question, one.options) == (other.group, other.question, other.options)
            for shown, sample in ((story, one), (conflicting, other)):
                truth = language.fuse([language.caption(event) for event in shown.events])
                assert (sample.options[sample.answer], sample.video) == (truth, f"{shown.id}.mp4")
            assert story.events != conflicting.events
            assert len(story.events) == len(conflicting.events)
            has_same_events = {*story.events} == {*conflicting.events}
            assert (one.aspect, bool(one.group)) == (
                ("conflicting", True) if has_same_events else ("foreign_event", False)
            )
            kinds[kind] += 1
            aspects[one.aspect] += 2
    assert kinds["reverse"] == NUM_STORIES
    assert min(kinds[kind] for kind in ("swap", "rotate", "foreign", "repeat")) >= NUM_STORIES // 6
    # Most of the temporal questions are about order.
    assert sum(aspects[aspect] for aspect in ACTIONS) < aspects["event_order"] + aspects["conflicting"]
