"""Models on public benchmarks: the same figures each time, blind baselines, scorings, and the command."""

from __future__ import annotations

import json
import shutil

import pytest
from published import CASES, mc, write_table
from sample_material import config_of, context_of

from tempo.config.running import PublicBenchmarkConfig
from tempo.core.store import RunStore
from tempo.evaluation.public.tasks import answer_task, load_task, task_result
from tempo.evaluation.run import run_evaluation
from tempo.synthetic.benchmark import story_samples
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story

CONFIG = config_of(frames={"max_pixels": 4096})


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """A made-up TVBench about four stories of the synthetic world, which the embedded model can answer."""
    folder, rows = tmp_path_factory.mktemp("stories"), []
    for number in range(4):
        story = make_story(91, number, num_shots=(4, 4))
        (folder / "video/direction").mkdir(parents=True, exist_ok=True)
        render_story(story, folder / f"video/direction/{story.id}.mp4")
        for sample in story_samples(story, seed=0, number=number):
            if sample.format == "multiple_choice":
                options = [*sample.options]
                rows.append(mc(sample.question, options, options[sample.answer], f"{story.id}.mp4"))
    write_table(folder / "json/direction.json", rows)
    return folder


@pytest.fixture(scope="module")
def balanced(stories):
    """The same question about every video; each option is right for half of the videos."""
    folder = stories.parent / "balanced"
    videos = sorted((stories / "video/direction").iterdir())
    rows = [
        mc("Which is it?", ["One.", "Two."], ("One.", "Two.")[i % 2], p.name) for i, p in enumerate(videos)
    ]
    write_table(folder / "json/direction.json", rows)
    (folder / "video").symlink_to(stories / "video")
    return folder


def evaluated(lm, folder, name="tvbench", store=None, **settings):
    task = load_task(PublicBenchmarkConfig(name=name, data=str(folder), **settings))
    answer_task(task, "tempo", lambda: lm, CONFIG, store=store)
    return task, task_result(task, CONFIG)


def accuracy(result, source="tvbench"):
    return next(row for row in result.figures if row.source == source).values["tempo"].value


def test_three_runs_give_the_same_result_and_the_last_needs_no_model(lm, stories, tmp_path):
    _, first = evaluated(lm, stories)
    assert evaluated(lm, stories, store=RunStore(tmp_path))[1] == first
    assert evaluated(None, stories, store=RunStore(tmp_path))[1] == first
    assert first.protocol["frames"] == "16 evenly spaced"
    assert {*first.protocol} >= {"revision", "files", "prompts", "scoring", "max_pixels", "torch"}


def test_options_scored_by_their_text_are_answered_well_by_the_embedded_model(lm, stories):
    _, result = evaluated(lm, stories, scoring="sum")
    assert accuracy(result) > result.chance["accuracy"] + 0.3


def test_without_the_videos_a_balanced_benchmark_is_at_chance(lm, balanced):
    _, result = evaluated(lm, balanced, blind=True)
    assert accuracy(result, "tvbench, blind") == result.chance["accuracy"] == 0.5


def test_written_answers_are_kept_and_unclear_ones_are_counted(lm, balanced):
    task, result = evaluated(lm, balanced, scoring="generate", max_new_tokens=8)
    replies = task.replies["tvbench"]["tempo"]
    assert all(reply.text for reply in replies)
    assert [reply.choice for reply in replies] == [
        question.read_reply(reply.text) for reply, (question,) in zip(replies, task.asked(), strict=True)
    ]
    assert result.num_unclear["tvbench"] == {"tempo": sum(reply.choice is None for reply in replies)}


@pytest.mark.parametrize("num_damaged", [1, 4])
def test_videos_that_cannot_be_read_are_left_out_unless_they_are_all(lm, balanced, tmp_path, num_damaged):
    folder = shutil.copytree(balanced, tmp_path / "data")
    for path in sorted((folder / "video/direction").iterdir())[:num_damaged]:
        path.write_bytes(b"no video")
    if num_damaged == 4:
        with pytest.raises(ValueError, match=r"no question in .* can be asked: .* cannot be opened"):
            evaluated(lm, folder)
        return
    _, result = evaluated(lm, folder, blind=True)
    (row,) = result.left_out
    assert (row.reason, result.num_asked, result.num_questions) == ("cannot be opened", 3, 4)
    assert row.detail.endswith("questions: 1")


def test_a_run_evaluates_its_models_on_public_benchmarks(balanced, tmp_path):
    benchmarks = [{"name": "tvbench", "data": str(balanced), "blind": True}]
    sections = {"frames": {"max_pixels": 4096}, "evaluation": {"benchmarks": benchmarks}}
    run_evaluation(context_of(tmp_path, **sections), lambda *_: None)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["source"] for row in evaluation["figures"]] == ["tvbench", "tvbench, blind"]
    assert evaluation["public"][0]["num_asked"] == 4
    assert "tvbench: 4 of 4 questions were asked; chance: accuracy 50.0" in evaluation["notes"]


def test_the_command_writes_figures_and_names_what_is_left_out(tempo, tmp_path):
    folders = {name: tmp_path / name for name in ("timeblind", "vinoground")}
    for case in CASES:
        if case.name in folders:
            case.publish(folders[case.name])
    (folders["vinoground"] / "vinoground_videos" / "0_pos.mp4").unlink()
    command = ["evaluate", "embedded", "--num-frames", 2, "--blind", "--out", tmp_path / "out.json"]
    for name, folder in folders.items():
        command += ["--benchmark", name, "--data", folder]
    code, out, err = tempo(*command)
    assert (code, err) == (0, "")
    assert "vinoground: left out: vinoground_videos/0_pos.mp4: video not found, questions: 1" in out
    assert "vinoground: 7 of 8 questions were asked; chance: group score 6.2" in out
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["benchmark"] for row in results] == [*folders]
    assert {row["source"] for row in results[0]["figures"]} == {"timeblind", "timeblind, blind"}
    assert len(results[1]["left_out"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--benchmark", "mvp"], "got --benchmark 1 times and --data 0 times"),
        (["--benchmark", "mvpp", "--download"], "unknown benchmark 'mvpp'"),
        (["--benchmark", "mvp", "--download"], "facebook/minimal_video_pairs cannot be downloaded"),
        (["--benchmark", "mvpp", "--data", "x"], "evaluation.benchmarks.0.name"),
        (["--benchmark", "mvp", "--data", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(tempo, arguments, words):
    code, _, err = tempo("evaluate", "embedded", *arguments)
    assert code == 2
    assert words in err
