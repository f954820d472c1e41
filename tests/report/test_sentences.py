"""Which clip a sentence is about, and which sentences are in order."""

import pytest

from tempo.report.sentences import match_sentences

CAPTIONS = ("A dog runs on the beach.", "A woman cuts bread.", "Two cars stop.", "A dog runs on the beach.")


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


@pytest.mark.parametrize("captions", [(), ("", ""), ("。", "!")])
def test_without_captions_no_sentence_has_a_clip(captions):
    assert [sentence.clip for sentence in match_sentences("One. Two.", captions)] == [None, None]


def test_sentences_of_other_languages():
    found = match_sentences("两辆车停下。一个女人切面包。", ("一个女人在切面包", "两辆车停下来"))
    assert [sentence.clip for sentence in found] == [1, 0]
