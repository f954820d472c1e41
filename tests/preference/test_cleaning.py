"""An answer gives its whole caption or none: neither an empty one nor a part of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo.model.answers import Answer
from tempo.preference.cleaning import clean_caption

# The same examples each time, and no database left in the folder that the tests are started from.
many = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def cleaned(text, **options):
    return clean_caption(Answer(text, is_whole=True), **({"is_differential": False} | options))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It changes. Caption: A dog runs.", "A dog runs."),
        ("It changes.\ncaption: A dog runs.", "A dog runs."),
        ("Caption: one\nCaption: two", "two"),
        ("It says Caption: one. Caption: two", "two"),
        ("It changes.\n\n### Caption:\nA dog runs.", "A dog runs."),
        ("It changes.\n\n**Caption:** A dog runs.", "A dog runs."),
        ("It changes.\n\n**Caption**: A dog runs.", "A dog runs."),
        ("It changes. **Caption:** A dog runs.", "A dog runs."),
        ("**Caption of the first clip:** A cat.\n**Caption of the second clip:** A dog.", "A dog."),
        ("## CAPTION (clip 2):\n> A dog runs.", "A dog runs."),
        ("Caption: A dog runs.\n\nThen it sleeps.", "A dog runs. Then it sleeps."),
        ('Caption: A screen shows "Caption: Hello" and fades.', 'A screen shows "Caption: Hello" and fades.'),
        ("Caption: A screen with a caption: hello.", "A screen with a caption: hello."),
        ("Caption: A sign reads Caption: hello world.", "A sign reads Caption: hello world."),
        ("caption (clip 2): A sign reads Caption: hello.", "A sign reads Caption: hello."),
        ("Caption: A slide.\nCaption of the slide: Results.", "A slide. Caption of the slide: Results."),
    ],
)
@pytest.mark.parametrize("is_differential", [False, True])
@pytest.mark.parametrize("is_last_try", [False, True])
def test_all_after_the_last_of_the_surest_marks_is_the_caption(text, expected, is_differential, is_last_try):
    assert cleaned(text, is_differential=is_differential, is_last_try=is_last_try) == expected


def test_one_clip_without_a_mark_is_captioned_by_the_whole_answer():
    """Not by its last paragraph: a detailed description has several."""
    assert cleaned("A dog runs.\n\nIt is brown.", is_differential=False) == "A dog runs. It is brown."


@pytest.mark.parametrize("parting", ["", "\n\nI hope this helps!"])
def test_two_clips_without_a_mark_are_asked_again_and_give_the_longest_paragraph_in_the_end(parting):
    text = f"It goes on.\n\nA dog runs after a ball.{parting}"
    assert cleaned(text, is_differential=True, is_last_try=False) is None
    assert cleaned(text, is_differential=True, is_last_try=True) == "A dog runs after a ball."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"A dog runs."', "A dog runs."),
        ("'A man's dog runs.'", "A man's dog runs."),
        ("“A dog runs.”", "A dog runs."),
        ('**"A dog runs."**', "A dog runs."),
        ('"Go!" he says, and the dog says "wow"', '"Go!" he says, and the dog says "wow"'),
        ('A man says "hello" and leaves.', 'A man says "hello" and leaves.'),
        ('"Hello," he says.', '"Hello," he says.'),
        ("the dogs'", "the dogs'"),
    ],
)
def test_only_quotation_marks_around_everything_are_taken_off(text, expected):
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**A dog** runs, *fast*.", "A dog runs, fast."),
        ("# Scene\n- A dog runs.\n- A cat sleeps.", "Scene A dog runs. A cat sleeps."),
        ("---\nA dog runs.\n***", "A dog runs."),
        ("```\nA `dog` runs.\n```", "A dog runs."),
        ("__A dog__ at 3 * 4 m_2, snake_case.", "A dog at 3 * 4 m_2, snake_case."),
        ("A dog\n runs.", "A dog runs."),
        ("Un chien court à l'arrière.", "Un chien court à l'arrière."),
        ("一只狗在跑。", "一只狗在跑。"),
    ],
)
def test_markdown_goes_and_words_stay(text, expected):
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    "text", ["", "Caption:", "It changes. Caption: ...", '""', "**", "A dog. Caption:\n\n", "- \n- "]
)
@pytest.mark.parametrize("is_differential", [False, True])
def test_what_says_nothing_is_no_caption(text, is_differential):
    assert cleaned(text, is_differential=is_differential) is None


@pytest.mark.parametrize("is_differential", [False, True])
def test_an_answer_cut_by_the_limit_is_no_caption(is_differential):
    answer = Answer("Caption: A dog ru", is_whole=False)
    assert clean_caption(answer, is_differential=is_differential) is None


@given(st.text(), st.booleans(), st.booleans())
@many
def test_whatever_is_said_the_caption_is_one_line_with_words_or_none(text, is_differential, is_last_try):
    caption = cleaned(text, is_differential=is_differential, is_last_try=is_last_try)
    if caption is not None:
        assert any(c.isalnum() for c in caption)
        assert caption == " ".join(caption.split())


@given(st.lists(st.text("abc \n'\"*_#-`", max_size=40), min_size=1, max_size=4))
@many
def test_no_word_after_the_mark_is_lost(paragraphs):
    said = "\n\n".join(paragraphs)
    caption = cleaned(f"It changes.\n\nCaption: {said}", is_differential=True) or ""
    assert [c for c in caption if c.isalpha()] == [c for c in said if c.isalpha()]
