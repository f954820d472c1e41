"""What is looked at before any work: a fault that needs none to be seen costs none."""

import json

import pytest
from rich.console import Console

from tempo import engine
from tempo.checks import check_inputs
from tempo.config import parse_config
from tempo.pipeline import fingerprints, run_stages
from tempo.stage import Context
from tempo.store import RunStore

QUIET = Console(quiet=True)

SAMPLE = {
    "id": "v/0",
    "video": "v.mp4",
    "aspect": "direction",
    "format": "multiple_choice",
    "question": "Where to?",
    "options": ["Left.", "Right."],
    "answer": 1,
}


@pytest.fixture(autouse=True)
def _no_work(monkeypatch):
    def decode(*_, **__):
        raise AssertionError("decoding has begun")

    monkeypatch.setattr(engine, "run_pool", decode)


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
        ({"aspect": None, "format": None}, r"bench\.jsonl line 1 is no sample: lacks aspect, format$"),
        ({"answer": 2}, r"bench\.jsonl line 1 is no sample: answer 2 is none of 2 options$"),
        ({"group": "g"}, r"bench\.jsonl line 1: group 'g' has one sample"),
        ({}, r"evaluation\.benchmark names .*v\.mp4, which does not exist"),
    ],
)
def test_faulty_benchmark_is_refused_where_it_will_be_asked(make, write_benchmark, changes, words):
    context = make(evaluation=write_benchmark(**changes))
    with pytest.raises(ValueError, match=words):
        run_stages(context, QUIET)
    assert not context.directory.exists()
    check_inputs(context.config, ["videos", "training"], with_model=False)


def test_benchmark_that_was_asked_may_lose_its_videos(make, write_benchmark):
    context = make(evaluation=write_benchmark())
    finish(context, "evaluation")
    with pytest.raises(AssertionError, match="decoding has begun"):
        run_stages(context, QUIET)
