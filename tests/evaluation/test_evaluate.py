"""Evaluating models: over one prefix, resumable, and with the right errors."""

import json
import shutil

import pytest
import torch
import transformers
from sample_material import context_of

from research.embedded_model.card import story_frames
from tempo.config import FramesConfig
from tempo.core.records import Record, Skipped
from tempo.core.store import RunStore
from tempo.evaluation.evaluate import answer_parts, ask, evaluate
from tempo.evaluation.run import run_evaluation
from tempo.model.chat import Continuation, Prefix
from tempo.model.support import duplicated_log_probs
from tempo.synthetic import benchmark
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story

STORY = make_story(77, 0, num_shots=(4, 4))
FRAMES = story_frames(STORY)


def scores(lm, samples, **options):
    outcomes = ask(lm, samples, FRAMES, fps=1.0, **options)
    return [score for outcome in outcomes for score in outcome.log_likelihoods]


def plain_scores(lm, rows):
    """Log-probabilities of each answer's tokens from one full sequence per answer."""
    group = lm.group(Prefix(FRAMES, ""), rows)
    with torch.no_grad():
        return duplicated_log_probs(lm.model, [group])[0]


@pytest.mark.parametrize("scoring", ["sum", "mean"])
def test_scores_over_one_prefix_are_those_of_full_sequences(lm, scoring):
    samples = benchmark.story_samples(STORY, seed=0, number=0)[:4]
    rows = [Continuation(option, sample.question) for sample in samples for option in sample.options]
    expected = [float(getattr(logp, scoring)()) for logp in plain_scores(lm, rows)]
    assert scores(lm, samples, scoring=scoring) == pytest.approx(expected, abs=2e-3)


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


def context_for(path, tmp_path, *, num_workers=1):
    sections = {"evaluation": {"benchmark": str(path)}, "frames": {"max_pixels": 4096}}
    return context_of(tmp_path / "run", run={"num_workers": num_workers}, **sections)


def table_of(context):
    return json.loads((context.directory / "evaluation.json").read_text())


def test_a_run_and_the_python_function_give_the_same_report(lm, own_benchmark, tmp_path):
    context = context_for(own_benchmark, tmp_path)
    calls = []
    run_evaluation(context, lambda *call: calls.append(call))
    table = table_of(context)
    assert calls == [("base on the benchmark", 1, 2), ("base on the benchmark", 2, 2)]
    assert table["num_samples"] == len(own_benchmark.read_text().splitlines())
    assert (table["scoring"], table["transformers"]) == ("sum", transformers.__version__)
    calls.clear()
    figures = evaluate(
        lm, own_benchmark, frames=FramesConfig(max_pixels=4096), progress=lambda *call: calls.append(call)
    )
    shares = [(row.name, row.num_items, row.values["model"].value) for row in figures]
    assert shares == [
        (row["name"], row["num_items"], row["values"]["base"]["value"]) for row in table["figures"]
    ]
    assert calls == [(1, 2), (2, 2)]


def test_only_rows_that_are_not_stored_are_asked_for(tmp_path):
    parts, asked = [[Record(id="a"), Record(id="b")], [Record(id="c")]], []

    def answer(part):
        asked.append([row.id for row in part])
        return part

    store = RunStore(tmp_path)
    store.append("rows", [Record(id="b"), Record(id="an old one")])
    for _ in range(2):
        rows = answer_parts(parts, answer, Record, store=store, table="rows")
        assert [row.id for row in rows] == ["b", "a", "c"]
    assert asked == [["a"], ["c"]]
    assert [row.id for row in answer_parts(parts, answer, Record)] == ["a", "b", "c"]


def test_processes_that_share_the_cores_give_the_same_table(own_benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    tables, calls = [], []
    for number in (1, 2):
        context = context_for(own_benchmark, tmp_path / str(number), num_workers=number)
        run_evaluation(context, lambda *call: calls.append(call))
        tables.append(table_of(context))
    assert tables[0] == tables[1]
    assert [call for call in calls if call[0] == "all models"] == [("all models", 1, 1)]


def test_a_process_that_dies_twice_ends_the_evaluation_with_its_part(own_benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    lost = [Skipped(stage="evaluation", id="base/the benchmark", reason="process died")]
    monkeypatch.setattr("tempo.evaluation.run.map_batches", lambda *_, **__: iter([lost]))
    with pytest.raises(ValueError, match="base/the benchmark died twice"):
        run_evaluation(context_for(own_benchmark, tmp_path, num_workers=2), lambda *_: None)


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
