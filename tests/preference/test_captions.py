"""Captions of clips: what the model is asked, and which part of its answer is the caption."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_material import greys
from sample_material import clips_of, context_of, grey_jpegs

from tempo.core.records import Captions, Skipped
from tempo.model.answers import Answer
from tempo.preference.captions import clean_caption, clip_requests, make_worker
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP
from tempo.video.frames import FrameStore


def video(name="v"):
    return clips_of((0, 2), (2, 4), (4, 6), name=name)


@pytest.fixture
def directory(tmp_path):
    """A run with the videos v and w, whose key frames of clip i have grey levels 20 * i and 20 * i + 10."""
    jpegs = grey_jpegs(range(0, 60, 10))
    for name in "vw":
        FrameStore(tmp_path / "frames").write(name, jpegs, seconds=range(6), fps=1.0, key_frames=jpegs)
    return tmp_path


def test_each_clip_is_shown_after_the_clip_before_it(directory):
    requests = clip_requests(video(), FrameStore(directory / "frames"), seed=0)
    assert [request.prompt for request in requests] == [FIRST_CLIP, DIFFERENCE, DIFFERENCE]
    assert [greys(request) for request in requests] == [[0, 10], [0, 10, 20, 30], [20, 30, 40, 50]]
    # Two key frames per clip of two seconds.
    assert [request.fps for request in requests] == [1.0, 1.0, 1.0]
    others = clip_requests(video(), FrameStore(directory / "frames"), seed=1)
    assert len({request.seed for request in (*requests, *others)}) == 6


def worker(directory, rounds, **settings):
    """A worker whose model gives these answers, one list per round, and the list of the rounds' seeds."""
    seeds = []

    def generate(requests, **_):
        seeds.append([request.seed for request in requests])
        answers = rounds[len(seeds) - 1]
        return [text if isinstance(text, Answer) else Answer(text, is_whole=True) for text in answers]

    return make_worker(context_of(directory, captions=settings), generate), seeds


GOOD = ["one", "Caption: two", "Caption: three"]
CUT = Answer("Caption: tw", is_whole=False)
FAILED = Answer("", is_whole=False, failure="HTTP 500")


@pytest.mark.parametrize("bad", ["", "Caption:", CUT, "two without a mark"])
def test_a_failed_caption_is_drawn_again_with_another_seed(directory, bad):
    work, seeds = worker(directory, [[GOOD[0], bad, GOOD[2]], ["Caption: two"]], retries=2)
    assert work([video()]) == [Captions(id="v", captions=("one", "two", "three"))]
    assert [len(row) for row in seeds] == [3, 1]
    assert seeds[1][0] not in seeds[0]


def test_the_last_try_needs_no_mark(directory):
    rounds = [[GOOD[0], "x", GOOD[2]], ["y"], ["It goes on.\n\nz after the first\n\nDone!"]]
    work, seeds = worker(directory, rounds, retries=2)
    assert work([video()]) == [Captions(id="v", captions=("one", "z after the first", "three"))]
    assert len(seeds) == 3


@pytest.mark.parametrize(
    ("bad", "options", "num_rounds", "reason", "detail"),
    [
        ("", {"retries": 1}, 2, "no caption", "clip 1 of 3: empty"),
        (CUT, {"retries": 1}, 2, "no caption", "clip 1 of 3: cut off at captions.max_new_tokens"),
        # Greedy captions and failed requests are not drawn again.
        ("Caption:", {"temperature": 0}, 1, "no caption", "clip 1 of 3: empty"),
        (FAILED, {"retries": 2}, 1, "endpoint", "1 of 3 requests failed: HTTP 500"),
    ],
)
def test_only_the_video_without_a_caption_is_skipped(directory, bad, options, num_rounds, reason, detail):
    work, seeds = worker(directory, [[GOOD[0], bad, GOOD[2], *GOOD], [bad]], **options)
    skipped, kept = work([video(), video(name="w")])
    assert skipped == Skipped(stage="captions", id="v", reason=reason, detail=detail)
    assert kept == Captions(id="w", captions=("one", "two", "three"))
    assert len(seeds) == num_rounds


def test_a_video_that_cannot_be_shown_is_skipped_and_the_others_are_asked(directory):
    path = directory / "frames" / "w" / "w.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    work, seeds = worker(directory, [GOOD])
    skipped, row = work([video(name="w"), video()])
    assert (skipped.id, skipped.reason) == ("w", "cannot be processed")
    assert (row.captions, [len(asked) for asked in seeds]) == (("one", "two", "three"), [3])


def cleaned(text, **options):
    return clean_caption(Answer(text, is_whole=True), **({"is_differential": False} | options))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It changes. Caption: A dog runs.", "A dog runs."),
        ("Caption: one\nCaption: two", "two"),
        ("It says Caption: one. Caption: two", "two"),
        ("It changes.\n\n**Caption:** A dog runs.", "A dog runs."),
        ("It changes. **Caption:** A dog runs.", "A dog runs."),
        ("**Caption of the first clip:** A cat.\n**Caption of the second clip:** A dog.", "A dog."),
        ("## CAPTION (clip 2):\n> A dog runs.", "A dog runs."),
        ("Caption: A dog runs.\n\nThen it sleeps.", "A dog runs. Then it sleeps."),
        ('Caption: A screen shows "Caption: Hello" and fades.', 'A screen shows "Caption: Hello" and fades.'),
        ("Caption: A screen with a caption: hello.", "A screen with a caption: hello."),
        ("Caption: A sign reads Caption: hello world.", "A sign reads Caption: hello world."),
        ("caption (clip 2): A sign reads Caption: hello.", "A sign reads Caption: hello."),
    ],
)
@pytest.mark.parametrize("is_differential", [False, True])
def test_the_caption_follows_the_last_of_the_most_reliable_marks(text, expected, is_differential):
    for is_last_try in (False, True):
        assert cleaned(text, is_differential=is_differential, is_last_try=is_last_try) == expected


@pytest.mark.parametrize("closing", ["", "\n\nI hope this helps!"])
def test_without_a_mark_one_clip_has_the_whole_answer_and_two_the_longest_paragraph(closing):
    text = f"It goes on.\n\nA dog runs after a ball.{closing}"
    assert cleaned(text) == " ".join(text.split())
    assert cleaned(text, is_differential=True, is_last_try=False) is None
    assert cleaned(text, is_differential=True, is_last_try=True) == "A dog runs after a ball."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"A dog runs."', "A dog runs."),
        ("“A dog runs.”", "A dog runs."),
        ('**"A dog runs."**', "A dog runs."),
        ('"Go!" he says, and the dog says "wow"', '"Go!" he says, and the dog says "wow"'),
        ("the dogs'", "the dogs'"),
        ("**A dog** runs, *fast*.", "A dog runs, fast."),
        ("# Scene\n- A dog runs.\n- A cat sleeps.", "Scene A dog runs. A cat sleeps."),
        ("---\nA dog runs.\n***", "A dog runs."),
        ("```\nA `dog` runs.\n```", "A dog runs."),
        ("__A dog__ at 3 * 4 m_2, snake_case.", "A dog at 3 * 4 m_2, snake_case."),
        ("A dog\n runs.", "A dog runs."),
        ("一只狗在跑。", "一只狗在跑。"),
    ],
)
def test_markdown_and_enclosing_quotation_marks_are_removed_and_words_are_not(text, expected):
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    "text", ["", "Caption:", "It changes. Caption: ...", '""', "**", "A dog. Caption:\n\n", "- \n- "]
)
@pytest.mark.parametrize("is_differential", [False, True])
def test_an_answer_without_words_or_cut_by_the_limit_has_no_caption(text, is_differential):
    assert cleaned(text, is_differential=is_differential) is None
    cut = Answer(f"{text} Caption: A dog ru", is_whole=False)
    assert clean_caption(cut, is_differential=is_differential) is None


@given(st.text("abc \n'\"*_#-`", max_size=100))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_caption_is_one_line_with_every_letter_after_the_mark(text):
    caption = cleaned(f"It changes.\n\nCaption: {text}", is_differential=True) or ""
    assert caption == " ".join(caption.split())
    assert [c for c in caption if c.isalpha()] == [c for c in text if c.isalpha()]
