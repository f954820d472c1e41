"""lmms-eval 0.7.3, in an environment of its own, gives tempo's results; for `make test-all`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempo.config import FramesConfig
from tempo.config.data import SyntheticConfig
from tempo.evaluation.evaluate import ask, evaluate, read_samples
from tempo.model.loading import load_model
from tempo.synthetic.dataset import make_dataset
from tempo.video.frames import sample_video

ROOT = Path(__file__).parents[2]

#: In this environment torchvision lacks its compiled part, as in the Makefile.
RUN = """
from tempo.model.loading import repair_torchvision
repair_torchvision()
from lmms_eval.__main__ import cli_evaluate
cli_evaluate()
"""

#: A task of the kind that lmms-eval ships: it picks the option with the lowest value itself.
PLAIN = """
task: plain_choices
include: {folder}/tempo_choices.yaml
process_results: null
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def run(*command, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ended = subprocess.run(
        [*map(str, command)], env=environment | variables, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def lmms_python(tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "env")
    pip = [tmp_path / "env/bin/pip", "install", "--quiet"]
    run(*pip, "--constraint", ROOT / "constraints.txt", "torch", "numpy")
    run(*pip, "--constraint", ROOT / "constraints.txt", "--no-deps", "torchvision")
    run(*pip, "lmms-eval==0.7.3", ROOT)
    return tmp_path / "env/bin/python"


@pytest.mark.lmms
def test_lmms_eval_gives_the_same_likelihoods_and_accuracies(lmms_python, tmp_path):
    make_dataset(
        SyntheticConfig(num_videos=1, num_held_out=4), tmp_path, seed=0, num_workers=1, progress=print
    )
    benchmark, tasks = tmp_path / "held_out" / "benchmark.jsonl", tmp_path / "tasks"
    folder = ROOT / "src/tempo/evaluation/lmms_tasks"
    tasks.mkdir()
    for file in folder.iterdir():
        (tasks / file.name).write_text(file.read_text())
    (tasks / "plain.yaml").write_text(PLAIN.format(folder=tasks))
    options = ["--model", "tempo", "--model_args", "pretrained=embedded,max_pixels=4096,device=cpu"]
    options += ["--include_path", tasks, "--tasks", "tempo_choices,tempo_letters,plain_choices"]
    variables = {"TEMPO_BENCHMARK": str(benchmark), "HF_HOME": str(tmp_path / "cache")}
    run(lmms_python, "-c", RUN, *options, "--log_samples", "--output_path", tmp_path / "out", **variables)

    (results,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(results.read_text())["results"]
    lm, frames = load_model("embedded"), FramesConfig(max_pixels=4096)
    found = {row.name: row.values["model"].value for row in evaluate(lm, benchmark, frames=frames)}
    for metric, name in (("temporal_accuracy", "temporal questions"), ("static_accuracy", "static")):
        assert results["tempo_choices"][f"{metric},none"] == pytest.approx(found[name], abs=1e-4)
    assert 0 <= results["tempo_letters"]["temporal_accuracy,none"] <= 1
    (logged,) = (tmp_path / "out").rglob("*_samples_plain_choices.jsonl")
    losses = {row["doc_id"]: row["filtered_resps"] for row in map(json.loads, logged.open())}
    outcomes = []
    for number, sample in enumerate(read_samples(benchmark).rows.values()):
        video = sample_video(benchmark.parent / sample.video, frames)
        outcomes += ask(lm, [sample], video.images, fps=video.fps, seconds=video.seconds.tolist())
        found = [-float(loss) for loss, _ in losses[number]]
        assert found == pytest.approx(outcomes[-1].log_likelihoods, abs=1e-2)
    share = sum(outcome.is_right for outcome in outcomes) / len(outcomes)
    assert results["plain_choices"]["acc,none"] == pytest.approx(share)
