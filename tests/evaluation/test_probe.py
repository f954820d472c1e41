"""The probe: what a model notices, in figures that reproduce; and which videos and words it takes."""

import json
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
from tempo.core.records import Clip, Clips, Pair, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation import descriptions, probe_videos
from tempo.evaluation import probe as module
from tempo.evaluation.descriptions import Description, describe, read_texts, write_texts
from tempo.evaluation.probe import ProbeSettings, compare, perturbed_views, probe
from tempo.evaluation.probe_videos import (
    NUM_SEGMENTS,
    Seen,
    VideoSet,
    choose_videos,
    open_videos,
    read_video,
)
from tempo.model import prefix
from tempo.model.answers import Answer
from tempo.model.chat import Prefix
from tempo.model.loading import load_video_lm
from tempo.pipeline.run_files import write_config
from tempo.preference.inputs import Footage
from tempo.video.frames import FrameStore, encode_jpeg
from tempo.video.sampling import sample_video
from tempo.video.videos import video_id

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


def footage(frames, num_segments=None):
    num_segments = num_segments or len(frames)
    return Footage(frames, np.arange(len(frames)) * num_segments // len(frames), num_segments, 1.0)


def seen(frames, name="v"):
    return Seen(name, f"{name}.mp4", footage(frames))


def score_by(monkeypatch, score):
    """Lets `score(grey levels [T])` be the log-likelihood of two tokens each."""
    monkeypatch.setattr(
        module,
        "log_probs",
        lambda lm, prefix, texts, reduction: [
            torch.full((2,), score(prefix.frames[:, 0, 0, 0].astype(float)), dtype=torch.float64)
        ],
    )


def by_kind(rows):
    return {
        kind: [row for row in rows if row.kind == kind] for kind in ("reverse", "shuffle", "drop", "frozen")
    }


# What is shown


def test_views_are_the_frames_rearranged_and_never_the_clean_video():
    frames = numbered(8)
    views = list(perturbed_views(footage(frames), prompt="p", seed=0))
    shown = {(v.kind, v.level): v.request.frames[:, 0, 0, 0].tolist() for v in views}
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
    reversed_clips = next(v for v in perturbed_views(clips, prompt="p", seed=0) if v.kind == "reverse")
    assert np.array_equal(reversed_clips.request.frames, frames[[5, 3, 4, 0, 1, 2]])


def test_a_clip_without_a_frame_makes_no_view_that_looks_clean():
    frames = numbered(4)
    gap = Footage(frames, np.array([1, 1, 1, 1]), 2, 1.0)
    assert [view.kind for view in perturbed_views(gap, prompt="p", seed=0)] == ["frozen"]


# What comes out


def test_a_model_that_prefers_rising_frames_wins_against_every_change_of_order(monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0 - float((np.diff(levels) <= 0).sum()))
    rows = by_kind(compare(None, seen(numbered(8)), TEXT, prompt="p", seed=0))
    for kind in ("reverse", "shuffle", "frozen"):
        assert {row.win for row in rows[kind]} == {1.0}
        assert all(row.margin > 0 for row in rows[kind])
    assert {(row.win, row.margin) for row in rows["drop"]} == {(0.5, 0.0)}
    reverse = next(row for row in rows["reverse"] if row.level == 8)
    assert reverse.margin == pytest.approx(14.0)
    assert reverse.num_tokens == 2


def test_a_model_that_prefers_falling_frames_loses(monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0 - float((np.diff(levels) > 0).sum()))
    rows = by_kind(compare(None, seen(numbered(8)), TEXT, prompt="p", seed=0))
    assert {row.win for row in rows["reverse"]} == {0.0}


def test_identical_frames_give_a_margin_of_exactly_zero(lm):
    rows = by_kind(compare(lm, seen(grey(*[90] * 6)), TEXT, prompt="Describe the video.", seed=0))
    assert all(rows[kind] for kind in rows)
    for kind in ("reverse", "shuffle", "frozen"):
        assert {(row.margin, row.win) for row in rows[kind]} == {(0.0, 0.5)}


def test_a_model_that_ignores_the_video_is_right_half_of_the_time(lm, monkeypatch):
    watched = compare(lm, seen(numbered(8)), TEXT, prompt="Describe the video.", seed=0)
    assert any(row.margin for row in watched if row.kind != "drop")
    original = prefix.encode_videos

    def blind(model, groups):
        features = original(model, groups)
        for output in features.values():
            output.pooler_output = tuple(torch.zeros_like(tokens) for tokens in output.pooler_output)
        return features

    monkeypatch.setattr(prefix, "encode_videos", blind)
    rows = compare(lm, seen(numbered(8)), TEXT, prompt="Describe the video.", seed=0)
    # A dropped video is shorter, which even the blind could count.
    kept = [row for row in rows if row.kind != "drop"]
    assert {(row.margin, row.win) for row in kept} == {(0.0, 0.5)}


def test_the_clean_log_likelihood_is_that_of_the_whole_answer(lm):
    video = seen(numbered(4))
    row = compare(lm, video, TEXT, prompt="p", seed=0)[0]
    group = lm.group(Prefix(video.footage.frames, "p"), [TEXT])
    with torch.no_grad():
        logp = prefix.packed_log_probs(lm.model, [group])[0][0]
    assert row.num_tokens == len(logp)
    assert row.clean == pytest.approx(float(logp.sum()), abs=1e-3)


# Which videos


def film(path, count=6, *, first=30, fps=1, size=(64, 64)):
    """A file of `count` grey pictures that get brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            picture = np.full((*size[::-1], 3), first + 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def films(tmp_path):
    """A folder with two films, a copy of one, one of a single frame, and a file that is none."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.mp4")
    film(folder / "b.mp4", first=60)
    (folder / "c.mp4").write_bytes((folder / "a.mp4").read_bytes())
    film(folder / "short.mp4", count=1)
    (folder / "torn.mp4").write_bytes(b"no video at all")
    return folder


def test_what_cannot_be_probed_is_left_out_with_its_reason(films, monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0)
    videos = open_videos(films, {})
    ids = [row.id for row in (read_video(videos, path) for path in videos.paths) if isinstance(row, Seen)]
    done = []
    probed = probe(None, videos, ProbeSettings(texts=dict.fromkeys(ids, TEXT)), done.append)
    assert {row.id.rpartition("/")[2]: row.reason for row in probed.left_out} == {
        "c.mp4": "duplicate",
        "short.mp4": "too few frames",
        "torn.mp4": "cannot be opened",
    }
    assert {row.video for row in probed.comparisons} == set(ids)
    assert len(probed.descriptions) == 2
    assert sum(done) == 5


def reasons(films, monkeypatch, **how):
    """Why each of the films is left out, where any text would do for all of them."""
    score_by(monkeypatch, lambda levels: -1.0)
    videos = replace(open_videos(films, {}), **how)
    texts = {video_id(path): TEXT for path in videos.paths}
    probed = probe(None, videos, ProbeSettings(texts=texts))
    assert probed.comparisons
    return {Path(row.id).name: (row.reason, row.detail) for row in probed.left_out}


@pytest.mark.parametrize("error", [ValueError("bad value"), cv2.error("bad picture"), KeyError("bad key")])
def test_a_video_at_which_a_library_fails_costs_itself_alone(films, monkeypatch, error):
    def fail_at_b(path, *how):
        if path.endswith("b.mp4"):
            raise error
        return sample_video(path, *how)

    monkeypatch.setattr(probe_videos, "sample_video", fail_at_b)
    reason, detail = reasons(films, monkeypatch)["b.mp4"]
    assert (reason, detail) == ("cannot be processed", f"{type(error).__name__}: {error}")


def test_a_decoder_that_hangs_costs_one_video(films, monkeypatch):
    released = threading.Event()

    def hang_at_b(path, config, beat):
        if path.endswith("b.mp4"):
            released.wait(60)
        return sample_video(path, config, beat)

    monkeypatch.setattr(probe_videos, "sample_video", hang_at_b)
    start = time.monotonic()
    try:
        assert reasons(films, monkeypatch, timeout_seconds=0.5)["b.mp4"][0] == "decoder hangs"
    finally:
        released.set()
    assert time.monotonic() - start < 30


def test_a_picture_too_thin_for_any_model_is_left_out(films, monkeypatch):
    film(films / "thin.mp4", size=(600, 2))
    assert reasons(films, monkeypatch)["thin.mp4"][0] == "picture too thin"


def test_a_video_without_a_given_text_is_left_out(films, monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0)
    with pytest.raises(ValueError, match=r"none of 5 videos can be probed; .*a\.mp4: no text given"):
        probe(None, open_videos(films, {}), ProbeSettings(texts={"other": TEXT}))


def test_frames_are_taken_as_asked(films):
    videos = open_videos(films, {"fps": 0.5, "max_pixels": 256})
    frames = read_video(videos, str(films / "a.mp4")).footage.frames
    assert frames.shape == (3, 16, 16, 3)


def test_a_long_video_has_as_many_segments_as_the_easiest_level(tmp_path):
    film(tmp_path / "long.mp4", count=10, fps=1)
    videos = open_videos(tmp_path / "long.mp4", {"fps": 4})
    long = read_video(videos, videos.paths[0]).footage
    assert len(long.frames) == 40
    assert long.num_clips == NUM_SEGMENTS
    assert set(np.bincount(long.clip_T)) == {2, 3}
    assert (np.diff(long.clip_T) >= 0).all()


@pytest.mark.parametrize(
    ("frames", "message"),
    [({"fps": 0}, r"frames\.fps: .* \(got 0\)"), ({"max_frames": 1}, r"frames\.max_frames: .* \(got 1\)")],
)
def test_frame_values_that_cannot_be_are_refused_by_name(films, frames, message):
    with pytest.raises(ValueError, match=message):
        open_videos(films, frames)


def test_no_video_is_said_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_videos(tmp_path / "nowhere", {})
    with pytest.raises(ValueError, match="no video in"):
        open_videos(tmp_path, {})


def test_the_draw_of_videos_does_not_depend_on_where_the_folder_lies():
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


def run_of(tmp_path, **sections):
    """A run directory with a configuration and nothing else."""
    write_config(Context(parse_config(sections), tmp_path / "run"))
    return tmp_path / "run"


def cut_video(name):
    """A video of two clips, cut after the first second."""
    times = [(0.0, 1.0), (1.0, 4.0)]
    clips = [
        Clip(group=i, first_shot=i, num_shots=1, start_seconds=a, end_seconds=b, key_frames=(i, i))
        for i, (a, b) in enumerate(times)
    ]
    return Clips(id=name, path=f"/gone/{name}.mp4", duration_seconds=4.0, clips=tuple(clips))


def test_videos_of_a_run_come_from_its_frame_store_cut_as_its_clips(tmp_path):
    directory = run_of(tmp_path, videos={"paths": ["/gone"], "timeout_seconds": 7})
    RunStore(directory).append("clips", [cut_video("x"), cut_video("y")])
    for name in ("x", "y"):
        store_frames(directory, name, numbered(4))
    videos = open_videos(directory, {})
    assert videos.timeout_seconds == 7
    rows = [read_video(videos, path) for path in videos.paths]
    assert [row.id for row in rows] == ["x", "y"]
    assert rows[0].footage.clip_T.tolist() == [0, 1, 1, 1]


def test_a_run_that_held_videos_out_is_probed_on_those(tmp_path):
    directory = run_of(tmp_path, videos={"paths": ["/gone"]})
    store = RunStore(directory)
    store.append("clips", [cut_video("x"), cut_video("y")])
    words = {"video": "/gone/y.mp4", "prompt": "p", "chosen": "c", "rejected": "r"}
    pair = Pair(id="y/drop-02", video_id="y", kind="drop", level=2, order=(0,), num_clips=2, **words)
    store.append("held_out_pairs", [pair])
    assert open_videos(directory, {}).paths == ("/gone/y.mp4",)


def test_a_run_of_the_embedded_world_is_probed_on_its_held_out_stories(tmp_path):
    directory = run_of(tmp_path, synthetic={}, frames={"fps": 0.5})
    folder = directory / "synthetic" / "held_out"
    folder.mkdir(parents=True)
    film(folder / "story.mp4")
    videos = open_videos(directory, {})
    assert len(read_video(videos, str(folder / "story.mp4")).footage.frames) == 3
    # Frames that the evaluation stored are not decoded again.
    name = read_video(videos, videos.paths[0]).id
    store_frames(directory, name, numbered(5))
    assert len(read_video(videos, videos.paths[0]).footage.frames) == 5


def test_a_run_of_another_version_can_be_probed(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.toml").write_text("[pairs]\nforgotten = 1\n[frames]\nfps = 0.5\n")
    RunStore(directory).append("clips", [cut_video("x")])
    assert open_videos(directory, {}).frames.fps == 0.5


def test_a_run_has_frames_of_its_own(tmp_path):
    directory = run_of(tmp_path, videos={"paths": ["/gone"]})
    with pytest.raises(ValueError, match=r"frames\.fps = 2\.0 would do nothing: the run"):
        open_videos(directory, {"fps": 2.0})


def test_a_run_without_videos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no videos yet"):
        open_videos(run_of(tmp_path, videos={"paths": ["/gone"]}), {})


# Words


def test_a_cut_description_is_set_aside(lm):
    video = seen(numbered(4))
    (cut,) = describe(lm, [video], prompt="Describe the video in detail.", max_new_tokens=1)
    assert isinstance(cut, Skipped)
    assert cut.reason == "no description"


def test_a_description_is_bare_of_the_thoughts_before_it(monkeypatch):
    """They are not about the video alone, and would be scored."""
    said = [Answer("<think>Describe it.</think>A ring turns.", True), Answer("<think>Descr", False)]
    monkeypatch.setattr(descriptions, "generate", lambda *_, **__: said)
    found, cut = describe(
        None, [seen(numbered(4), name) for name in "ab"], prompt="Describe.", max_new_tokens=9
    )
    assert found == Description(id="a", text="A ring turns.")
    assert (cut.reason, cut.detail) == ("no description", "cut; more --max-new-tokens may help")


def test_texts_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "texts.jsonl"
    write_texts(path, [Description(id="a", text="x\u2028y"), Description(id="b", text="z")])
    assert read_texts(path) == {"a": "x\u2028y", "b": "z"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a"}\n', "line 1 is no description"),
        ('{"id": "a", "text": " "}\n', "the text of 'a' is empty"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "2 rows for 1 videos"),
    ],
)
def test_texts_that_cannot_be_are_refused(tmp_path, lines, message):
    path = tmp_path / "texts.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=message):
        read_texts(path)


def test_two_models_with_one_seed_see_the_same_perturbed_videos(films, monkeypatch):
    videos = open_videos(films / "a.mp4", {})
    texts = {read_video(videos, videos.paths[0]).id: TEXT}

    def watched(seed):
        levels = []
        score_by(monkeypatch, lambda shown: levels.append(shown.tolist()) or -1.0)
        probe(None, videos, ProbeSettings(texts=texts, seed=seed))
        return levels

    assert watched(0) == watched(0)
    assert watched(0) != watched(1)


def test_the_embedded_model_probes_itself_reproducibly(lm, films):
    videos = VideoSet((str(films / "a.mp4"),), FramesConfig(max_pixels=4096))
    settings = ProbeSettings(texts={read_video(videos, videos.paths[0]).id: TEXT})
    first, second = probe(lm, videos, settings), probe(lm, videos, settings)
    assert first == second
    assert json.loads(first.comparisons[0].model_dump_json())["num_tokens"] > 1
