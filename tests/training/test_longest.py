"""Videos that training would refuse for their length are refused before the model is asked."""

import numpy as np
import pytest
from rich.console import Console

import tempo.model.loading
from tempo.config import FramesConfig, parse_config
from tempo.core.records import Clips, Video
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import NAMES
from tempo.training.longest import longest
from tempo.video.frames import FrameStore, encode_jpeg

PHASE = {"name": "p", "objective": "dpo", "learning_rate": 1e-3}


def video(name, seconds=40.0, width=64, height=64):
    facts = {"duration_seconds": seconds, "width": width, "height": height, "fps": 24.0, "codec": "h264"}
    return Video(id=name, path=f"{name}.mp4", **facts)


@pytest.fixture
def begin(tmp_path):
    """A function that makes a run whose clips are done: of one video of 40 frames, not of a longer one."""

    def make(**training):
        config = parse_config({"videos": {"paths": [str(tmp_path)]}, "training": training})
        store, marks = RunStore(tmp_path / "run"), fingerprints(config)
        store.append("videos", [video("a"), video("longer", 400.0)])
        store.append("clips", [Clips(id="a", path="a.mp4", duration_seconds=40.0, clips=())])
        frame = encode_jpeg(np.zeros((64, 64, 3), np.uint8), 95)
        FrameStore(store.directory / "frames").write("a", [frame] * 40, seconds=list(range(40)), fps=1.0)
        for name in NAMES[1 : NAMES.index("captions")]:
            store.finish(name, marks[name])
        return Context(config, store.directory)

    return make


class Asked(Exception):
    """The model was loaded."""


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch):
    def load(config):
        raise Asked

    monkeypatch.setattr(tempo.model.loading, "load_video_lm", load)


def test_a_video_that_alone_is_over_the_limit_is_refused_before_the_model_is_loaded(begin):
    with pytest.raises(ValueError, match=r"a\.mp4: .* tokens, training\.max_tokens is 64.*max_total_pixels"):
        run_stages(begin(phases=[PHASE], max_tokens=64), Console(quiet=True), only="captions")


def test_a_video_whose_container_tells_no_length_is_measured_as_it_decoded(begin):
    context = begin(phases=[PHASE], max_tokens=64)
    store = RunStore(context.directory)
    store.append("videos", [video("silent", 0.0)])
    store.append("clips", [Clips(id="silent", path="silent.mp4", duration_seconds=600.0, clips=())])
    frame = encode_jpeg(np.zeros((64, 64, 3), np.uint8), 95)
    seconds = list(range(50))
    FrameStore(store.directory / "frames").write("silent", [frame] * 50, seconds=seconds, fps=1.0)
    with pytest.raises(ValueError, match=r"silent\.mp4: .* tokens"):
        run_stages(context, Console(quiet=True), only="captions")


@pytest.mark.parametrize("training", [{"phases": [PHASE]}, {"max_tokens": 64}])
def test_a_video_that_fits_or_that_nobody_trains_on_is_no_hindrance(begin, training):
    with pytest.raises(Asked):
        run_stages(begin(**training), Console(quiet=True), only="captions")


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({}, ["long", "large"]),
        ({"max_pixels": 100}, ["long"]),
        ({"max_pixels": 10**6, "max_total_pixels": 10**5}, ["long"]),
        ({"max_frames": 5}, ["small", "large"]),
    ],
)
def test_what_is_measured_is_the_most_frames_and_the_most_pixels(settings, ids):
    videos = [video("large", 20.0, 640, 360), video("small", 10.0), video("long", 60.0)]
    assert [found.id for found in longest(videos, FramesConfig(**settings))] == ids
