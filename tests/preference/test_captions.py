"""Clip captions: what is asked, and what counts as an answer."""

import numpy as np
import pytest

from tempo.config import parse_config
from tempo.model.generation import Answer
from tempo.preference import captions
from tempo.preference.captions import clean_caption, clip_requests
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP
from tempo.records import Captions, Clip, Clips, Drop
from tempo.stage import Context
from tempo.video.frames import FrameStore, encode_jpeg


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs.", "A dog runs."),
        ("It changes. Caption: A dog runs.", "A dog runs."),
        ("caption: one Caption: two", "two"),
        ("First thoughts.\n\nA dog runs.", "A dog runs."),
        ('Caption: "A dog runs."', "A dog runs."),
        ("Caption: **A dog runs.**", "A dog runs."),
        ('A man says "hello" and leaves.', 'A man says "hello" and leaves.'),
        ("Caption: A dog\n runs.", "A dog runs."),
        ("", None),
        ("Caption:", None),
        ("It changes. Caption: ...", None),
        ('""', None),
    ],
)
def test_cleaning_keeps_the_whole_caption_or_nothing(text, expected):
    """Faults of the released code: an empty caption, or only a quotation out of it."""
    assert clean_caption(Answer(text, is_whole=True)) == expected


def test_an_answer_cut_by_the_limit_is_no_caption():
    assert clean_caption(Answer("Caption: A dog ru", is_whole=False)) is None


def video(num_clips=3):
    clips = [
        Clip(
            group=i,
            first_shot=i,
            num_shots=1,
            start_seconds=2.0 * i,
            end_seconds=2.0 * i + 2,
            key_frames=(24 * i + 8, 24 * i + 16),
        )
        for i in range(num_clips)
    ]
    return Clips(id="v", path="v.mp4", duration_seconds=2.0 * num_clips, clips=tuple(clips))


@pytest.fixture
def directory(tmp_path):
    """A run whose key frames of clip i are of grey level 20 * i and 20 * i + 10."""
    pictures = [np.full((8, 8, 3), 10 * i, np.uint8) for i in range(6)]
    jpegs = [encode_jpeg(picture, 100) for picture in pictures]
    FrameStore(tmp_path / "frames").write("v", jpegs, seconds=range(6), fps=1.0, key_frames=jpegs)
    return tmp_path


def greys(request):
    return [int(np.median(frame)) for frame in request.frames]


def test_clip_0_is_shown_alone_and_every_other_after_the_one_before_it(directory):
    requests = clip_requests(video(), FrameStore(directory / "frames"), seed=0)
    assert [request.prompt for request in requests] == [FIRST_CLIP, DIFFERENCE, DIFFERENCE]
    assert [greys(request) for request in requests] == [[0, 10], [0, 10, 20, 30], [20, 30, 40, 50]]


def test_the_rate_is_that_of_key_frames_over_the_clips_shown(directory):
    requests = clip_requests(video(), FrameStore(directory / "frames"), seed=0)
    assert [request.fps for request in requests] == [1.0, 1.0, 1.0]


def test_seeds_differ_by_clip_and_follow_the_run(directory):
    store = FrameStore(directory / "frames")
    seeds = [[request.seed for request in clip_requests(video(), store, seed=s)] for s in (0, 0, 1)]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 6


def worker(directory, monkeypatch, answers, *, retries):
    """A captions worker whose model says `answers`, one list per round; and the rounds' seeds."""
    rounds = []

    def fake_generate(lm, requests, **settings):
        rounds.append([request.seed for request in requests])
        return [Answer(text, is_whole=True) for text in answers[len(rounds) - 1]]

    monkeypatch.setattr(captions, "load_video_lm", lambda config: None)
    monkeypatch.setattr(captions, "generate", fake_generate)
    config = parse_config({"videos": {"paths": ["x"]}, "captions": {"retries": retries}})
    return captions.make_worker(Context(config, directory)), rounds


def test_an_empty_caption_is_drawn_again_with_another_seed(directory, monkeypatch):
    work, rounds = worker(directory, monkeypatch, [["one", "", "three"], ["two"]], retries=2)
    assert work([video()]) == [Captions(id="v", captions=("one", "two", "three"))]
    assert len(rounds) == 2
    assert rounds[1][0] not in rounds[0]


def test_a_video_without_a_caption_is_dropped_with_its_clip_named(directory, monkeypatch):
    work, _ = worker(directory, monkeypatch, [["one", "", "three"], [""]], retries=1)
    (result,) = work([video()])
    assert isinstance(result, Drop)
    assert (result.stage, result.id, result.reason) == ("captions", "v", "no caption")
    assert "clip 1 of 3" in result.detail
