"""Evaluating models: over one prefix, resumable, and with the right errors."""

import json
import shutil

import pytest
import torch
import transformers

from research.embedded_model.card import story_frames
from tempo.config import FramesConfig, parse_config
from tempo.core.records import Outcome
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.evaluate import ask, evaluate
from tempo.evaluation.run import run_evaluation
from tempo.model.chat import Continuation, Prefix
from tempo.model.loading import load_model
from tempo.model.support import duplicated_log_probs
from tempo.synthetic import benchmark
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story

STORY = make_story(77, 0, num_shots=(4, 4))
FRAMES = story_frames(STORY)


@pytest.fixture(scope="module")
def lm():
    return load_model("embedded")


def test_scores_over_one_prefix_are_those_of_full_sequences(lm):
    samples = benchmark.story_samples(STORY, seed=0, number=0)[:4]
    outcomes = ask(lm, samples, FRAMES, fps=1.0)
    rows = [Continuation(option, sample.question) for sample in samples for option in sample.options]
    group = lm.group(Prefix(FRAMES, ""), rows)
    with torch.no_grad():
        plain = [float(logp.sum()) for logp in duplicated_log_probs(lm.model, [group])[0]]
    ours = [score for outcome in outcomes for score in outcome.log_likelihoods]
    assert ours == pytest.approx(plain, abs=2e-3)
    for one, other in zip(outcomes, ask(lm, samples[::-1], FRAMES, fps=1.0)[::-1], strict=True):
        assert one.id == other.id
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=2e-3)


def scores(lm, samples, **options):
    outcomes = ask(lm, samples, FRAMES, fps=1.0, **options)
    return [score for outcome in outcomes for score in outcome.log_likelihoods]


def plain_scores(lm, rows):
    """Log-probabilities of each answer's tokens from one full sequence per answer."""
    group = lm.group(Prefix(FRAMES, ""), rows)
    with torch.no_grad():
        return duplicated_log_probs(lm.model, [group])[0]


def test_the_mean_does_not_favour_short_options(lm):
    samples = benchmark.story_samples(STORY, seed=0, number=0)[:2]
    rows = [Continuation(option, sample.question) for sample in samples for option in sample.options]
    expected = [float(logp.mean()) for logp in plain_scores(lm, rows)]
    assert scores(lm, samples, scoring="mean") == pytest.approx(expected, abs=2e-3)


def test_a_letter_is_scored_without_its_end_of_turn_after_a_question_that_lists_the_options(lm):
    (sample, *_) = benchmark.story_samples(STORY, seed=0, number=0)
    sample = sample.model_copy(update={"question": "Which?", "options": ("It turns.", "It <b>moves</b>.")})
    question = "Which?\nA. It turns.\nB. It <b>moves</b>.\nAnswer with the letter of the right option."
    logps = plain_scores(lm, [Continuation(letter, question) for letter in "AB"])
    assert {len(logp) for logp in logps} == {2}
    expected = [float(logp[0]) for logp in logps]
    assert scores(lm, [sample], scoring="letter") == pytest.approx(expected, abs=2e-3)
    listed = sample.model_copy(update={"question": question, "options": ("A", "B"), "lists_options": True})
    assert scores(lm, [listed], scoring="letter") == pytest.approx(expected, abs=2e-3)


def test_more_options_than_letters_are_refused(lm):
    (sample, *_) = benchmark.story_samples(STORY, seed=0, number=0)
    sample = sample.model_copy(update={"options": tuple(map(str, range(27)))})
    with pytest.raises(ValueError, match="27 options; scoring 'letter' supports at most 26"):
        scores(lm, [sample], scoring="letter")


def test_options_that_are_too_many_for_a_row_share_the_vision_pass_but_not_the_row(lm):
    samples = benchmark.story_samples(STORY, seed=0, number=0)[:4]
    lengths, passes = [], []
    hooks = [
        lm.model.model.language_model.register_forward_hook(
            lambda *call: lengths.append(call[-1].last_hidden_state.shape[1])
        ),
        lm.model.model.visual.register_forward_hook(lambda *_: passes.append(1)),
    ]
    whole, (size,) = scores(lm, samples), lengths
    limit = size - 20
    split = scores(lm, samples, max_tokens=limit)
    # A row that holds no more than one option is as long as that.
    single = scores(lm, samples, max_tokens=1)
    for hook in hooks:
        hook.remove()
    assert len(passes) == 3
    assert len(lengths) == 1 + 2 + sum(len(sample.options) for sample in samples)
    assert max(lengths[1:]) <= limit
    assert split == pytest.approx(whole, abs=2e-3)
    assert single == pytest.approx(whole, abs=2e-3)


@pytest.fixture(scope="module")
def shared_benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    samples = []
    for index in range(2):
        story = make_story(78, index, num_shots=(4, 4))
        render_story(story, folder / f"{story.id}.mp4")
        samples += benchmark.story_samples(story, seed=0, number=index)
    (folder / "samples.jsonl").write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    return folder


@pytest.fixture
def own_benchmark(shared_benchmark, tmp_path):
    """A user's benchmark of two videos next to its JSONL file."""
    return shutil.copytree(shared_benchmark, tmp_path / "bench") / "samples.jsonl"


def context_for(path, tmp_path):
    data = {
        "videos": {"paths": ["x"]},
        "evaluation": {"benchmark": str(path)},
        "frames": {"max_pixels": 4096},
        "training": {},
    }
    return Context(parse_config(data), tmp_path / "run")


def table_of(context):
    return json.loads((context.directory / "evaluation.json").read_text())


def test_a_run_and_the_python_function_give_the_same_report(lm, own_benchmark, tmp_path):
    context = context_for(own_benchmark, tmp_path)
    calls = []
    run_evaluation(context, lambda *call: calls.append(call))
    table = table_of(context)
    assert calls == [("base", 1, 2), ("base", 2, 2)]
    count = len(own_benchmark.read_text().splitlines())
    assert table["num_samples"] == count
    assert (table["scoring"], table["transformers"]) == ("sum", transformers.__version__)
    base = table["models"]["base"]
    assert base["num_samples"] + base["static"]["num_samples"] == count
    calls.clear()
    report = evaluate(
        lm, own_benchmark, frames=FramesConfig(max_pixels=4096), progress=lambda *call: calls.append(call)
    )
    assert report.model_dump(mode="json") == base
    assert calls == [(1, 2), (2, 2)]


def test_a_resumed_evaluation_asks_only_what_is_missing(own_benchmark, tmp_path):
    context = context_for(own_benchmark, tmp_path)
    run_evaluation(context, lambda *_: None)
    whole = table_of(context)
    path = RunStore(context.directory).path("evaluation/base")
    rows = [Outcome.model_validate_json(line) for line in path.read_text().splitlines()]
    # All samples of the first video and one of the second. What is computed again has other likelihoods.
    num_kept = sum("78-00000" in row.id for row in rows) + 1
    lower = [tuple(value - 7.0 for value in row.log_likelihoods) for row in rows]
    kept = [row.model_copy(update={"log_likelihoods": own}) for row, own in zip(rows, lower, strict=True)]
    path.write_text("".join(row.model_dump_json() + "\n" for row in kept[:num_kept]))
    calls = []
    run_evaluation(context, lambda *call: calls.append(call))
    resumed = [Outcome.model_validate_json(line) for line in path.read_text().splitlines()]
    assert calls == [("base", 2, 2)]
    assert resumed[:num_kept] == kept[:num_kept]
    assert [row.id for row in resumed] == [row.id for row in rows]
    assert table_of(context)["models"]["base"]["num_samples"] == whole["models"]["base"]["num_samples"]


def test_a_bad_row_is_named_before_any_work(own_benchmark):
    # No model is given: it is not used before the file is checked.
    with own_benchmark.open("a") as file:
        file.write("nonsense\n" * 99)
    with pytest.raises(ValueError, match=r"samples\.jsonl line \d+: .* rows are bad"):
        evaluate(None, own_benchmark)


def test_a_video_that_cannot_be_read_is_named_with_its_reason(own_benchmark, tmp_path):
    video = sorted(own_benchmark.parent.glob("*.mp4"))[0]
    video.write_bytes(b"no video")
    with pytest.raises(ValueError, match=rf"{video.name}, which cannot be read: cannot be opened: "):
        run_evaluation(context_for(own_benchmark, tmp_path), lambda *_: None)


def test_without_a_benchmark_the_file_has_a_note(tmp_path):
    context = Context(parse_config({"videos": {"paths": ["x"]}}), tmp_path / "run")
    run_evaluation(context, lambda *_: None)
    table = table_of(context)
    assert (table["models"], table["figures"]) == ({}, [])
    assert "evaluation.benchmark" in table["notes"][-1]
