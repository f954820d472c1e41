"""How well descriptions agree with captions in their order, and which clip a sentence is about."""

import numpy as np
import pytest

from tempo.preference.verify import (
    agreement,
    agreement_gain,
    match_captions,
    match_sentences,
    similarities,
)

CAPTIONS = ("A dog runs on the beach.", "A woman cuts bread.", "Two cars stop.", "A dog runs on the beach.")
DOG, BREAD, CARS, _ = CAPTIONS


@pytest.mark.parametrize(
    ("text", "recall", "precision", "order"),
    [
        (" ".join(CAPTIONS), 1, 1, 0),
        # Of equal captions, the first sentence takes the first: here only bread and cars are exchanged.
        (f"{DOG} {CARS} {BREAD} {DOG}", 1, 1, 1 / 6),
        (f"{CARS}\n{BREAD}", 2 / 4, 1, 1),
        (f"{BREAD} {CARS} {DOG}", 3 / 4, 1, 0),
        # A caption that is told twice counts once, and a foreign sentence not at all.
        (f"{BREAD} {BREAD} Zulu!", 1 / 4, 1 / 3, None),
        ("Zulu!", 0, 0, None),
        ("", 0, 0, None),
    ],
)
def test_agreement_of_exact_sentences(text, recall, precision, order):
    found = agreement(text, CAPTIONS)
    assert (found.recall, found.precision) == pytest.approx((recall, precision))
    assert found.order == (None if order is None else pytest.approx(order))


def test_a_paraphrase_counts_with_its_similarity():
    (similarity,) = similarities(["A woman is cutting the bread."], CAPTIONS)[:, 1]
    found = agreement(f"A woman is cutting the bread. {CARS}", CAPTIONS)
    assert 0.2 < similarity < 1
    assert found == pytest.approx(((similarity + 1) / 4, (similarity + 1) / 2, 0))


@pytest.mark.parametrize(
    ("chosen", "rejected", "gain"),
    [
        # Of six caption pairs, one is told in the wrong order.
        (" ".join(CAPTIONS), f"{DOG} {CARS} {BREAD} {DOG}", 1 - 5 / 6),
        (f"{CARS} {BREAD}", " ".join(CAPTIONS), 0 - 1),
        # A single sentence is in the order of chance.
        (f"{BREAD} {CARS} {DOG}", BREAD, 3 / 4 - 1 / 4 * 1 / 2),
        (" ".join(CAPTIONS), f"{DOG} {BREAD} Zulu! Yankee!", 1 - 1 / 2),
        ("Zulu!", "Yankee!", 0),
    ],
)
def test_the_gain_of_a_pair_counts_captions_and_their_order(chosen, rejected, gain):
    assert agreement_gain(chosen, rejected, CAPTIONS) == pytest.approx(gain)
    assert agreement_gain(rejected, chosen, CAPTIONS) == pytest.approx(-gain)


def test_the_matching_is_the_best_as_a_whole():
    # The first sentence is most similar to caption 0, but the second fits nothing else.
    assert match_captions(np.array([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0], [0.0, 0.0, 0.1]])) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("captions", [(), ("", ""), ("。", "!")])
def test_nothing_agrees_with_empty_captions_and_no_sentence_has_a_clip(captions):
    assert agreement("One. Two.", captions) == (0, 0, None)
    assert [sentence.clip for sentence in match_sentences("One. Two.", captions)] == [None, None]


def test_other_languages():
    captions = ("一个女人在切面包", "两辆车停下来")
    assert agreement("一个女人切面包。两辆车停下。", captions).order == 0
    assert agreement("两辆车停下。一个女人切面包。", captions).order == 1
    found = match_sentences("两辆车停下。一个女人切面包。", captions)
    assert [sentence.clip for sentence in found] == [1, 0]


@pytest.mark.parametrize(
    ("text", "clips", "marks"),
    [
        ("A dog is running. The woman cuts the bread. Then two cars stopped.", [0, 1, 2], "+++"),
        ("Two cars stop. A woman is cutting bread. Cars have stopped.", [2, 1, 2], "+-+"),
        # Two clips look the same, so the dog may also be the last.
        ("A woman cuts bread\nTwo cars stop\nA dog runs on the beach", [1, 2, 3], "+++"),
        ("A woman cuts bread. She still cuts bread.", [1, 1], "++"),
        ("Music. A woman cuts bread.", [None, 1], "-+"),
        ("", [], ""),
    ],
)
def test_sentences_belong_to_clips(text, clips, marks):
    sentences = match_sentences(text, CAPTIONS)
    assert [sentence.clip for sentence in sentences] == clips
    assert "".join("-+"[sentence.is_in_order] for sentence in sentences) == marks
    assert [sentence.text for sentence in sentences] == text.replace(". ", ".\n").splitlines()
