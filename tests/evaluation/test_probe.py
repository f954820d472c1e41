"""The probe: which videos it takes, what it shows and scores."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from tempo.config import FramesConfig, ModelConfig, parse_config
from tempo.core.records import Clip, Clips, Pair
from tempo.core.store import RunStore, write_config
from tempo.engine.types import SkipRecord
from tempo.evaluation import probe as module
from tempo.evaluation.probe import (
    NUM_SEGMENTS,
    VideoSet,
    choose_videos,
    compare,
    open_videos,
    perturbed_views,
    probe,
    read_video,
)
from tempo.model import prefix
from tempo.model.answers import Answer
from tempo.model.chat import Prefix
from tempo.model.loading import load_video_lm
from tempo.preference.responses import Footage
from tempo.video.find import video_id
from tempo.video.frames import FrameStore, encode_jpeg, sample_video

TEXT = "A red square appears, then a blue ring moves."


@pytest.fixture(scope="module")
def lm():
    return load_video_lm(ModelConfig())


def grey(*levels, size=64):
    """Frames uint8 [T, H, W, 3], one of each grey level."""
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


def numbered(count):
    """Frames that each have their own grey level, in order."""
    return grey(*range(10, 10 + 4 * count, 4))


def footage(frames):
    return Footage(frames, np.arange(len(frames)), len(frames), 1.0)


def score_by(monkeypatch, score):
    """Makes `score(grey levels [T])` the log-likelihood of two tokens each."""
    monkeypatch.setattr(
        module,
        "log_probs",
        lambda model, prefix, texts, reduction: [
            torch.full((2,), score(prefix.frames[:, 0, 0, 0].astype(float)), dtype=torch.float64)
        ],
    )


def compared(model, frames, prompt="Describe the video."):
    """Comparisons by kind."""
    rows = compare(model, footage(frames), TEXT, video="v", prompt=prompt, seed=0)
    return {
        kind: [row for row in rows if row.kind == kind] for kind in ("reverse", "shuffle", "drop", "frozen")
    }


# What is shown


def test_views_are_the_frames_rearranged_and_never_the_clean_video():
    frames = numbered(8)
    views = list(perturbed_views(footage(frames), prompt="p", seed=0))
    shown = {(kind, level): request.frames[:, 0, 0, 0].tolist() for kind, level, request in views}
    levels = frames[:, 0, 0, 0].tolist()
    assert shown["reverse", 8] == levels[::-1]
    assert shown["reverse", 2] == levels[4:] + levels[:4]
    assert shown["frozen", 0] == [levels[4]] * 8
    assert sorted(shown["shuffle", 4]) == levels
    assert len(shown["drop", 4]) == 2
    assert {kind for kind, _ in shown} == {"reverse", "shuffle", "drop", "frozen"}
    assert levels not in shown.values()


def test_frames_move_with_their_clip():
    frames = numbered(6)
    clips = Footage(frames, np.array([0, 0, 0, 1, 1, 2]), 3, 1.0)
    views = perturbed_views(clips, prompt="p", seed=0)
    request = next(request for kind, _, request in views if kind == "reverse")
    assert np.array_equal(request.frames, frames[[5, 3, 4, 0, 1, 2]])


def test_a_clip_without_a_frame_makes_no_view_that_looks_clean():
    gap = Footage(numbered(4), np.array([1, 1, 1, 1]), 2, 1.0)
    assert [kind for kind, *_ in perturbed_views(gap, prompt="p", seed=0)] == ["frozen"]


# What is scored


def test_a_model_that_prefers_rising_frames_wins_against_every_change_of_order(monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0 - float((np.diff(levels) <= 0).sum()))
    rows = compared(None, numbered(8))
    for kind in ("reverse", "shuffle", "frozen"):
        assert {row.win for row in rows[kind]} == {1.0}
        assert all(row.margin > 0 for row in rows[kind])
    assert {(row.win, row.margin) for row in rows["drop"]} == {(0.5, 0.0)}
    reverse = next(row for row in rows["reverse"] if row.level == 8)
    assert reverse.margin == pytest.approx(14.0)
    assert reverse.num_tokens == 2


def test_a_model_that_prefers_falling_frames_loses(monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0 - float((np.diff(levels) > 0).sum()))
    assert {row.win for row in compared(None, numbered(8))["reverse"]} == {0.0}


def test_identical_frames_give_a_margin_of_exactly_zero(lm):
    rows = compared(lm, grey(*[90] * 6))
    for kind in ("reverse", "shuffle", "frozen"):
        assert {(row.margin, row.win) for row in rows[kind]} == {(0.0, 0.5)}


def test_a_model_that_ignores_the_video_wins_half_of_the_time(lm, monkeypatch):
    assert any(row.margin for row in compared(lm, numbered(8))["reverse"])
    original = prefix.encode_videos

    def encode_nothing(model, groups):
        features = original(model, groups)
        for output in features.values():
            output.pooler_output = tuple(torch.zeros_like(tokens) for tokens in output.pooler_output)
        return features

    monkeypatch.setattr(prefix, "encode_videos", encode_nothing)
    # Drops are left out: a model can count the frames of a shorter video without seeing them.
    rows = compared(lm, numbered(8))
    kept = [row for kind in ("reverse", "shuffle", "frozen") for row in rows[kind]]
    assert {(row.margin, row.win) for row in kept} == {(0.0, 0.5)}


def test_the_clean_log_likelihood_is_that_of_the_whole_answer(lm):
    row = compared(lm, numbered(4), prompt="p")["reverse"][0]
    group = lm.group(Prefix(numbered(4), "p"), [TEXT])
    with torch.no_grad():
        logp = prefix.packed_log_probs(lm.model, [group])[0][0]
    assert row.num_tokens == len(logp)
    assert row.clean == pytest.approx(float(logp.sum()), abs=1e-3)


# Which videos


def film(path, count=6, *, first=30, fps=1, size=(64, 64)):
    """A file of `count` grey frames that get brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            frame = np.full((*size[::-1], 3), first + 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def films(tmp_path):
    """A folder with two films, a copy of one, one of a single frame, and a file that is not a video."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.mp4")
    film(folder / "b.mp4", first=60)
    (folder / "c.mp4").write_bytes((folder / "a.mp4").read_bytes())
    film(folder / "short.mp4", count=1)
    (folder / "torn.mp4").write_bytes(b"no video at all")
    return folder


def probed(films, monkeypatch, progress=lambda done, total: None, **changes):
    """The report on the films, with the same text for all, and why videos were left out by file name."""
    score_by(monkeypatch, lambda levels: -1.0)
    videos = replace(open_videos(films), **changes)
    texts = {video_id(path): TEXT for path in videos.paths}
    report = probe(None, videos, texts=texts, progress=progress)
    return report, {Path(row.id).name: (row.reason, row.detail) for row in report.left_out}


def test_a_video_that_cannot_be_probed_is_left_out_with_its_reason(films, monkeypatch):
    film(films / "thin.mp4", size=(600, 2))
    calls = []
    report, reasons = probed(films, monkeypatch, lambda *call: calls.append(call))
    assert {name: reason for name, (reason, _) in reasons.items()} == {
        "c.mp4": "duplicate",
        "short.mp4": "too few frames",
        "thin.mp4": "frame too thin",
        "torn.mp4": "cannot be opened",
    }
    wanted = {video_id(films / name) for name in ("a.mp4", "b.mp4")}
    assert {row.video for row in report.comparisons} == set(report.descriptions) == wanted
    assert calls == [(6, 6)]


@pytest.mark.parametrize("error", [ValueError("bad value"), cv2.error("bad frame"), KeyError("bad key")])
def test_a_video_at_which_a_library_fails_costs_itself_alone(films, monkeypatch, error):
    def fail_at_b(path, *rest):
        if path.endswith("b.mp4"):
            raise error
        return sample_video(path, *rest)

    monkeypatch.setattr(module, "sample_video", fail_at_b)
    _, reasons = probed(films, monkeypatch)
    assert reasons["b.mp4"] == ("cannot be processed", f"{type(error).__name__}: {error}")


def test_a_decoder_that_hangs_costs_one_video(films, monkeypatch):
    released = threading.Event()

    def hang_at_b(name, *how, _open=av.open, **options):
        if name.endswith("b.mp4"):
            released.wait(60)
        return _open(name, *how, **options)

    monkeypatch.setattr(av, "open", hang_at_b)
    start = time.monotonic()
    try:
        _, reasons = probed(films, monkeypatch, timeout_seconds=0.5)
    finally:
        released.set()
    assert reasons["b.mp4"][0] == "decoder hangs"
    assert time.monotonic() - start < 30


def test_videos_without_a_given_text_are_left_out_and_none_at_all_is_an_error(films):
    with pytest.raises(ValueError, match=r"none of 5 videos can be probed; .*a\.mp4: no text given"):
        probe(None, films, texts={"other": TEXT})


def test_frames_are_sampled_as_asked(films):
    videos = open_videos(films, {"fps": 0.5, "max_pixels": 256})
    _, sampled = read_video(videos, str(films / "a.mp4"))
    assert sampled.frames.shape == (3, 16, 16, 3)


def test_a_long_video_has_as_many_segments_as_the_easiest_level(tmp_path):
    film(tmp_path / "long.mp4", count=10, fps=1)
    videos = open_videos(tmp_path / "long.mp4", {"fps": 4})
    _, long = read_video(videos, videos.paths[0])
    assert len(long.frames) == 40
    assert long.num_clips == NUM_SEGMENTS
    assert set(np.bincount(long.clip_T)) == {2, 3}
    assert (np.diff(long.clip_T) >= 0).all()


def test_the_draw_of_videos_does_not_depend_on_the_place_of_the_folder():
    names = [f"{index}.mp4" for index in range(30)]
    here = choose_videos(tuple(f"/here/{name}" for name in names), 5, seed=1)
    there = choose_videos(tuple(f"/there/{name}" for name in names), 5, seed=1)
    assert [path.removeprefix("/here/") for path in here] == [path.removeprefix("/there/") for path in there]
    assert len(here) == 5
    assert here != choose_videos(tuple(f"/here/{name}" for name in names), 5, seed=2)


# Runs


def store_frames(directory, name, frames):
    jpegs = [encode_jpeg(frame, 95) for frame in frames]
    FrameStore(directory / "frames").write(name, jpegs, seconds=list(range(len(jpegs))), fps=1.0)


@pytest.fixture
def run_of(tmp_path):
    """A function that makes a run directory with a configuration and clips of the given videos."""

    def make(*names, **sections):
        directory = tmp_path / "run"
        config = parse_config(sections or {"videos": {"paths": ["/gone"]}})
        write_config(directory, config.model_dump(mode="json", exclude_none=True))
        RunStore(directory).append("clips", [cut_video(name) for name in names])
        return directory

    return make


def cut_video(name):
    """A video of two clips, cut after the first second."""
    times = [(0.0, 1.0), (1.0, 4.0)]
    clips = [
        Clip(group=i, first_shot=i, num_shots=1, start_seconds=a, end_seconds=b, key_frames=(i, i))
        for i, (a, b) in enumerate(times)
    ]
    return Clips(id=name, path=f"/gone/{name}.mp4", duration_seconds=4.0, clips=tuple(clips))


def test_videos_of_a_run_come_from_its_frame_store_with_its_clips(run_of):
    directory = run_of("x", "y", videos={"paths": ["/gone"], "timeout_seconds": 7})
    for name in ("x", "y"):
        store_frames(directory, name, numbered(4))
    videos = open_videos(directory)
    assert videos.timeout_seconds == 7
    rows = [read_video(videos, path) for path in videos.paths]
    assert [name for name, _ in rows] == ["x", "y"]
    assert rows[0][1].clip_T.tolist() == [0, 1, 1, 1]


def test_a_run_with_held_out_videos_is_probed_on_those(run_of):
    directory = run_of("x", "y")
    words = {"video": "/gone/y.mp4", "prompt": "p", "chosen": "c", "rejected": "r"}
    pair = Pair(id="y/drop-02", video_id="y", kind="drop", level=2, order=(0,), num_clips=2, **words)
    RunStore(directory).append("held_out_pairs", [pair])
    assert open_videos(directory).paths == ("/gone/y.mp4",)


def test_a_run_of_the_embedded_world_is_probed_on_its_held_out_stories(run_of):
    directory = run_of(synthetic={}, frames={"fps": 0.5})
    folder = directory / "synthetic" / "held_out"
    folder.mkdir(parents=True)
    film(folder / "story.mp4")
    videos = open_videos(directory)
    name, sampled = read_video(videos, str(folder / "story.mp4"))
    assert len(sampled.frames) == 3
    # Frames that the evaluation stored are not decoded again.
    store_frames(directory, name, numbered(5))
    assert len(read_video(videos, videos.paths[0])[1].frames) == 5


def test_a_run_of_another_version_can_be_probed(tmp_path):
    (tmp_path / "config.toml").write_text("[pairs]\nforgotten = 1\n[frames]\nfps = 0.5\n")
    RunStore(tmp_path).append("clips", [cut_video("x")])
    assert open_videos(tmp_path).frames.fps == 0.5


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("films", {"fps": 0}, r"frames\.fps: .* \(got 0\)"),
        ("films", {"max_frames": 1}, r"frames\.max_frames: .* \(got 1\)"),
        ("nowhere", {}, "does not exist"),
        ("empty", {}, "no video in"),
        ("run", {"fps": 2.0}, r"frames\.fps cannot be set for .*run: frames of a run are sampled already"),
        ("run", {}, "has no videos yet"),
    ],
)
def test_bad_videos_and_settings_are_named_before_any_work(films, run_of, tmp_path, name, frames, message):
    (tmp_path / "empty").mkdir()
    run_of()
    with pytest.raises(ValueError, match=message):
        open_videos(tmp_path / name, frames)


# Descriptions


def test_a_cut_description_is_not_scored(lm, films):
    with pytest.raises(ValueError, match="no description: cut; a larger --max-new-tokens"):
        probe(lm, films / "a.mp4", max_new_tokens=1)


def test_a_reasoning_model_that_gave_no_answer_is_left_out(films, monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0)
    drawn = [Answer("A ring turns.", True), Answer("", False)]
    monkeypatch.setattr(module, "generate", lambda *_, **__: drawn)
    report = probe(None, films)
    assert list(report.descriptions.values()) == ["A ring turns."]
    assert [row.reason for row in report.left_out if row.id.endswith("b.mp4")] == ["no description"]


def test_two_models_with_one_seed_see_the_same_perturbed_videos(films, monkeypatch):
    videos = open_videos(films / "a.mp4")
    texts = {video_id(films / "a.mp4"): TEXT}

    def watched(seed):
        levels = []
        score_by(monkeypatch, lambda shown: levels.append(shown.tolist()) or -1.0)
        probe(None, videos, texts=texts, seed=seed)
        return levels

    assert watched(0) == watched(0)
    assert watched(0) != watched(1)


def test_the_embedded_model_probes_itself_reproducibly(lm, films):
    videos = VideoSet((str(films / "a.mp4"),), FramesConfig(max_pixels=4096))
    texts = {video_id(films / "a.mp4"): TEXT}
    first, second = (probe(lm, videos, texts=texts) for _ in range(2))
    assert first == second
    assert first.comparisons[0].num_tokens > 1


def test_read_video_raises_for_a_file_that_is_not_a_video(films):
    with pytest.raises(SkipRecord, match="cannot be opened"):
        read_video(open_videos(films), str(films / "torn.mp4"))
