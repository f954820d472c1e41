"""Clip captions: what is asked, and what counts as an answer."""

import numpy as np
import pytest

from tempo.config import parse_config
from tempo.core.records import Captions, Clip, Clips, Skipped
from tempo.engine.types import Context
from tempo.model.answers import Answer
from tempo.preference import captions
from tempo.preference.captions import clip_requests
from tempo.preference.prompts import DIFFERENCE, FIRST_CLIP
from tempo.video.frames import FrameStore, encode_jpeg


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


def worker(directory, monkeypatch, answers, **settings):
    """A captions worker whose model says `answers`, one list per round; and the rounds' seeds."""
    rounds = []

    def fake_generate(requests, **_):
        rounds.append([request.seed for request in requests])
        said = answers[len(rounds) - 1]
        return [text if isinstance(text, Answer) else Answer(text, is_whole=True) for text in said]

    monkeypatch.setattr(captions, "answer_source", lambda context: fake_generate)
    config = parse_config({"videos": {"paths": ["x"]}, "captions": settings})
    return captions.make_worker(Context(config, directory)), rounds


GOOD = ["one", "Caption: two", "Caption: three"]
CUT = Answer("Caption: tw", is_whole=False)
FAILED = Answer("", is_whole=False, failure="HTTP 500")


@pytest.mark.parametrize("bad", ["", "Caption:", CUT, "two without a mark"])
def test_a_caption_that_fails_is_drawn_again_with_another_seed(directory, monkeypatch, bad):
    rows = [[GOOD[0], bad, GOOD[2]], ["Caption: two"]]
    work, rounds = worker(directory, monkeypatch, rows, retries=2)
    assert work([video()]) == [Captions(id="v", captions=("one", "two", "three"))]
    assert [len(seeds) for seeds in rounds] == [3, 1]
    assert rounds[1][0] not in rounds[0]


def test_a_mark_that_never_comes_gives_the_longest_paragraph_of_the_last_try(directory, monkeypatch):
    rows = [[GOOD[0], "x", GOOD[2]], ["y"], ["It goes on.\n\nz after the first\n\nDone!"]]
    work, rounds = worker(directory, monkeypatch, rows, retries=2)
    assert work([video()]) == [Captions(id="v", captions=("one", "z after the first", "three"))]
    assert len(rounds) == 3


@pytest.mark.parametrize(("bad", "fault"), [("", "empty"), (CUT, "cut at captions.max_new_tokens")])
def test_a_video_without_a_caption_is_dropped_with_its_clip_named(directory, monkeypatch, bad, fault):
    work, _ = worker(directory, monkeypatch, [[GOOD[0], bad, GOOD[2]], [bad]], retries=1)
    (result,) = work([video()])
    assert isinstance(result, Skipped)
    assert (result.stage, result.id, result.reason) == ("captions", "v", "no caption")
    assert result.detail == f"clip 1 of 3: {fault}"


def test_one_video_without_a_caption_does_not_touch_the_other(directory, monkeypatch):
    other = video().model_copy(update={"id": "w"})
    (directory / "frames" / "w.safetensors").write_bytes(
        (directory / "frames" / "v.safetensors").read_bytes()
    )
    work, _ = worker(directory, monkeypatch, [[GOOD[0], "", GOOD[2], *GOOD]], retries=0)
    dropped, kept = work([video(), other])
    assert (dropped.id, dropped.reason) == ("v", "no caption")
    assert kept == Captions(id="w", captions=("one", "two", "three"))


def test_greedy_captions_are_not_drawn_again(directory, monkeypatch):
    """The same words would come."""
    work, rounds = worker(directory, monkeypatch, [["one", "unmarked", "Caption:"]], temperature=0)
    (result,) = work([video()])
    assert result.detail == "clip 2 of 3: empty"
    assert len(rounds) == 1


def test_retries_of_greedy_captions_are_refused():
    config = {"videos": {"paths": ["x"]}, "captions": {"temperature": 0, "retries": 5}}
    with pytest.raises(ValueError, match="captions: retries 5 would do nothing at temperature 0"):
        parse_config(config)


def test_what_a_server_failed_to_answer_is_not_asked_again_here(directory, monkeypatch):
    work, rounds = worker(directory, monkeypatch, [[GOOD[0], FAILED, GOOD[2]]], retries=2)
    (result,) = work([video()])
    assert (result.reason, len(rounds)) == ("endpoint", 1)
    assert "HTTP 500" in result.detail


def cut_frames(directory, video):
    path = directory / "frames" / f"{video.id}.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    return video


def no_length(directory, video):
    clip = video.clips[0].model_copy(update={"end_seconds": 0.0})
    return video.model_copy(update={"clips": (clip,)})


@pytest.mark.parametrize("damage", [cut_frames, no_length])
def test_a_video_that_cannot_be_shown_is_dropped_and_the_others_are_asked(directory, monkeypatch, damage):
    (directory / "frames" / "w.safetensors").write_bytes(
        (directory / "frames" / "v.safetensors").read_bytes()
    )
    other = damage(directory, video().model_copy(update={"id": "w"}))
    work, rounds = worker(directory, monkeypatch, [GOOD])
    drop, row = work([other, video()])
    assert (drop.id, drop.stage, drop.reason) == ("w", "captions", "cannot be processed")
    assert (row.captions, [len(asked) for asked in rounds]) == (("one", "two", "three"), [3])
