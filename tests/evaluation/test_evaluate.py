"""Asking a model the benchmark: over one prefix, resumable, and with the right errors."""

import json
import shutil
import threading

import pytest
import torch

from research.embedded_model.card import story_view
from tempo.config import ModelConfig, parse_config
from tempo.core.records import Outcome
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation import evaluate
from tempo.evaluation.evaluate import ask, run_evaluation
from tempo.model.chat import Continuation, Prefix
from tempo.model.loading import load_video_lm
from tempo.model.support import duplicated_log_probs
from tempo.synthetic import benchmark
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story

STORY = make_story(77, 0, num_shots=(4, 4))


@pytest.fixture(scope="module")
def lm():
    return load_video_lm(ModelConfig())


def test_scores_over_one_prefix_are_those_of_full_sequences(lm):
    samples = benchmark.story_samples(STORY, seed=0, number=0)[:4]
    outcomes = ask(lm, samples, (story_view(STORY), 1.0))
    questions = [Continuation(option, row.question) for row in samples for option in row.options]
    group = lm.group(Prefix(story_view(STORY), ""), questions)
    with torch.no_grad():
        plain = [float(logp.sum()) for logp in duplicated_log_probs(lm.model, [group])[0]]
    ours = [score for outcome in outcomes for score in outcome.log_likelihoods]
    assert ours == pytest.approx(plain, abs=2e-3)


def test_the_order_in_which_samples_are_asked_changes_nothing(lm):
    samples = benchmark.story_samples(STORY, seed=0, number=0)
    forward = {o.id: o.log_likelihoods for o in ask(lm, samples, (story_view(STORY), 1.0))}
    backward = {o.id: o.log_likelihoods for o in ask(lm, samples[::-1], (story_view(STORY), 1.0))}
    for name, scores in forward.items():
        assert scores == pytest.approx(backward[name], abs=2e-3)


def outcome(*scores, answer=0):
    return Outcome(id="x", aspect="action", format="f", answer=answer, log_likelihoods=scores)


@pytest.mark.parametrize(
    ("scores", "answer", "right"),
    [
        ((-1.0, -2.0), 0, True),
        ((-1.0, -2.0), 1, False),
        ((-1.0, -1.0), 0, False),
        ((-3.0, -2.0, -1.0), 2, True),
    ],
)
def test_the_likeliest_option_wins_and_a_tie_is_wrong(scores, answer, right):
    assert outcome(*scores, answer=answer).is_right is right


@pytest.fixture
def own_benchmark(tmp_path):
    """A user's benchmark of two videos beside its JSONL file."""
    folder = tmp_path / "bench"
    folder.mkdir()
    samples = []
    for index in range(2):
        story = make_story(78, index, num_shots=(4, 4))
        render_story(story, folder / f"{story.id}.mp4")
        samples += benchmark.story_samples(story, seed=0, number=index)
    path = folder / "samples.jsonl"
    path.write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    return path


def context_for(path, tmp_path):
    data = {
        "videos": {"paths": ["x"]},
        "evaluation": {"benchmark": str(path)},
        "frames": {"max_pixels": 4096},
        "training": {},
    }
    return Context(parse_config(data), tmp_path / "run")


def test_a_users_benchmark_is_asked_of_the_base_model(own_benchmark, tmp_path):
    context = context_for(own_benchmark, tmp_path)
    seen = []
    run_evaluation(context, lambda name, done, total: seen.append((name, done, total)))
    table = json.loads((context.directory / "evaluation.json").read_text())
    assert seen == [("base", 1, 2), ("base", 2, 2)]
    count = len(own_benchmark.read_text().splitlines())
    assert table["num_samples"] == count
    summary = table["models"]["base"]
    assert summary["num_samples"] + summary["static"]["num_samples"] == count


def test_a_resumed_evaluation_asks_only_what_is_left(own_benchmark, tmp_path, monkeypatch):
    context = context_for(own_benchmark, tmp_path)
    run_evaluation(context, lambda *_: None)
    store = RunStore(context.directory)
    whole = (context.directory / "evaluation.json").read_text()
    rows = store.read("evaluation/base", Outcome)
    first = {row.id for row in rows if row.id.startswith("story-78-00000")}
    path = store.path("evaluation/base")
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows if row.id in first))
    asked = []
    original = evaluate.ask
    monkeypatch.setattr(
        evaluate, "ask", lambda lm, samples, frames: asked.extend(samples) or original(lm, samples, frames)
    )
    run_evaluation(context, lambda *_: None)
    assert {sample.id for sample in asked} == {row.id for row in rows} - first
    assert (context.directory / "evaluation.json").read_text() == whole


def test_a_video_that_is_missing_is_named(own_benchmark, tmp_path):
    for video in own_benchmark.parent.glob("*.mp4"):
        video.unlink()
    with pytest.raises(ValueError, match=r"story-78-00000\.mp4, which does not exist"):
        run_evaluation(context_for(own_benchmark, tmp_path), lambda *_: None)


def test_a_video_that_cannot_be_used_is_named_with_its_reason(own_benchmark, tmp_path, monkeypatch):
    context = context_for(own_benchmark, tmp_path)
    video = sorted(own_benchmark.parent.glob("*.mp4"))[0]
    video.write_bytes(b"no video")
    with pytest.raises(ValueError, match=rf"{video.name}, which cannot be used: cannot be opened: "):
        run_evaluation(context, lambda *_: None)

    settings = context.config.videos.model_copy(update={"timeout_seconds": 0.2})
    hasty = Context(context.config.model_copy(update={"videos": settings}), context.directory)
    released = threading.Event()
    monkeypatch.setattr(evaluate, "sample_video", lambda *_: released.wait(60))
    try:
        with pytest.raises(ValueError, match=r"which cannot be used: decoder hangs: "):
            run_evaluation(hasty, lambda *_: None)
    finally:
        released.set()


def test_without_a_benchmark_the_file_says_so(tmp_path):
    context = Context(parse_config({"videos": {"paths": ["x"]}}), tmp_path / "run")
    run_evaluation(context, lambda *_: None)
    table = json.loads((context.directory / "evaluation.json").read_text())
    assert table["models"] == {}
    assert "evaluation.benchmark" in table["note"]


def test_frames_of_benchmark_videos_are_decoded_once(own_benchmark, tmp_path, monkeypatch):
    context = context_for(own_benchmark, tmp_path)
    calls = []
    original = evaluate.sample_video
    monkeypatch.setattr(
        evaluate, "sample_video", lambda path, *how: calls.append(path) or original(path, *how)
    )
    run_evaluation(context, lambda *_: None)
    shutil.rmtree(context.directory / "evaluation")
    run_evaluation(context, lambda *_: None)
    assert len(calls) == 2
