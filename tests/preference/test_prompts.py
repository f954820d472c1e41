"""The words that tempo says to a model."""

from __future__ import annotations

import pytest

from tempo.preference.prompts import CAPTION_MARK, DESCRIBE, DIFFERENCE, FIRST_CLIP, describe_prompt, fusion


@pytest.mark.parametrize("count", [1, 2, 12])
def test_fusion_numbers_the_captions_from_one_in_the_order_given(count):
    captions = [f"caption {chr(97 + i)}" for i in range(count)]
    lines = fusion(captions).splitlines()
    assert lines[1:-1] == [f"{i + 1}. caption {chr(97 + i)}" for i in range(count)]


def test_fusion_of_a_perturbed_list_numbers_it_anew():
    """A number kept from before would tell the model the true order."""
    assert "1. last\n2. first\n" in fusion(["last", "first"])


def test_fusion_asks_for_one_chronological_paragraph():
    assert fusion(["a"]).splitlines()[-1] == "Write them as one chronological paragraph."


def test_fusion_says_the_same_words_around_any_captions():
    assert fusion(["ONE", "TWO"]).replace("ONE", "TWO") == fusion(["TWO", "TWO"])


def test_differential_captioning_names_the_mark_once_and_the_first_clip_does_not():
    assert DIFFERENCE.count(CAPTION_MARK) == 1
    assert CAPTION_MARK not in FIRST_CLIP


def test_each_video_keeps_its_describe_prompt_and_all_are_used():
    prompts = [describe_prompt(f"v{i}", seed=0) for i in range(50)]
    assert prompts == [describe_prompt(f"v{i}", seed=0) for i in range(50)]
    assert set(prompts) == set(DESCRIBE)
    assert prompts != [describe_prompt(f"v{i}", seed=1) for i in range(50)]


def test_training_prompts_differ_and_tell_the_caption_mark_to_nobody():
    assert len(set(DESCRIBE)) == len(DESCRIBE) > 1
    assert not any(CAPTION_MARK in prompt for prompt in DESCRIBE)
