"""Jobs run once, side by side, after those that they need; a whole study continues after a kill."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import study_workers
from made_up_study import ROOT

from research.study.plan import DataJob
from research.study.run import run_jobs
from research.study.truth import write_true_captions, write_true_responses
from tempo.config import Config
from tempo.core.files import write_lines
from tempo.core.records import Captions, Clip, Clips, Perturbation, Perturbations, Responses, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.synthetic import language
from tempo.synthetic.world import make_story

CONFIG = Config.model_validate({"synthetic": {}})


def make_jobs(tmp_path, *keys, **needs):
    """Jobs in order; `needs` says which one takes over the data of another."""
    jobs = {}
    for key in keys:
        jobs[key] = DataJob(key, tmp_path / key, CONFIG, "embedded", jobs.get(needs.get(key)))
    return jobs


def run(jobs, num_workers=2, work=study_workers.note):
    lines = []
    run_jobs(jobs, num_workers=num_workers, work=work, log=lines.append)
    return lines


def test_a_job_starts_when_those_that_it_needs_are_done_and_others_run_beside_it(tmp_path):
    jobs = make_jobs(tmp_path, "a", "b", "c", c="a")
    assert [line.split()[0] for line in run(jobs)] == ["1/3", "2/3", "3/3"]
    times = {key: [float(word) for word in job.done.read_text().split()] for key, job in jobs.items()}
    assert times["c"][0] >= times["a"][1]
    assert times["b"][0] < times["c"][1]
    assert run(jobs) == []
    jobs["b"].done.unlink()
    assert [line.split()[2] for line in run(jobs)] == ["b"]


@pytest.mark.parametrize(
    ("work", "message"), [(study_workers.fail, "data b: out of luck"), (study_workers.die, "--workers 1")]
)
def test_a_job_that_fails_is_named_and_the_others_stay_done(tmp_path, work, message):
    jobs = make_jobs(tmp_path, "a", "b", "c", b="a", c="b")
    with pytest.raises(ValueError, match=message):
        run(jobs, num_workers=1, work=work)
    assert [job.done.exists() for job in jobs.values()] == [True, False, False]


def test_true_captions_and_responses_follow_the_scripts(tmp_path):
    stories = [make_story(0, index, num_shots=(4, 4)) for index in range(2)]
    folder = tmp_path / "synthetic" / "videos"
    write_lines(folder / "scripts.jsonl", (story.model_dump_json() for story in stories))
    clip = Clip(group=0, first_shot=0, num_shots=1, start_seconds=0, end_seconds=1, key_frames=())
    clips = [
        Clips(id=name, path=str(folder / f"{story.id}.mp4"), duration_seconds=4, clips=(clip,) * count)
        for name, story, count in zip("ab", stories, (4, 3), strict=True)
    ]
    store, context = RunStore(tmp_path), Context(CONFIG, tmp_path)
    store.append("clips", clips)
    write_true_captions(context)
    captions = tuple(map(language.caption, stories[0].events))
    assert {row.id: row.captions for row in store.read("captions", Captions)} == {"a": captions}
    (skipped,) = store.read("skipped", Skipped)
    assert (skipped.stage, skipped.id, skipped.detail) == ("captions", "b", "3 clips, 4 events")
    made = Perturbation(
        kind="reverse", level=16, order=(3, 2, 1, 0), num_clips=4, kept_share=1, kendall_distance=1
    )
    store.append("perturbations", [Perturbations(id="a", num_clips=4, perturbations=(made,))])
    write_true_responses(context)
    (row,) = store.read("responses", Responses)
    assert (row.chosen, row.rejected[0].text) == (language.fuse(captions), language.fuse(captions[::-1]))


BASE = """
[synthetic]
num_videos = 6
num_held_out = 2
plain_share = 0.0
max_shots = 6
[frames]
max_pixels = 4096
[captions]
max_new_tokens = 64
[responses]
max_new_tokens = 160
"""

STUDY = """
base = "base.toml"
seeds = [3]
num_workers = 1
probe_videos = 1
set = { "pairs.held_out_share" = 0.4 }
[[phases]]
name = "dpo"
objective = "dpo"
learning_rate = 1e-3
lora_rank = 4
[[phases]]
name = "sft"
objective = "sft"
learning_rate = 1e-3
lora_rank = 4
[rows.base]
description = "the base model"
[rows.method]
description = "DPO on true pairs, then SFT"
phases = ["dpo", "sft"]
pairs_by = "truth"
[[claims]]
name = "gain"
source = "aim"
text = "Training helps."
rows = [["method", "base"]]
"""


def start(folder):
    command = [sys.executable, "-m", "research.study", f"{folder}/study.toml", "--out", f"{folder}/out"]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_study_continues_after_a_kill_and_ends_with_its_figures(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "study.toml").write_text(STUDY)
    first, limit = start(tmp_path), time.monotonic() + 240
    while not list(tmp_path.glob("out/data/*/phases/*/result.json")):
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < limit, "no phase was done"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = start(tmp_path)
    printed = second.communicate(timeout=400)[0]
    assert second.returncode == 0, printed
    num_jobs, missing = map(int, re.search(r"study: (\d+) jobs, (\d+) to do", printed).groups())
    # The data and one phase were done.
    assert missing <= num_jobs - 2
    assert "Training helps. | **cannot be told**" in printed
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    base, method = study["rows"]
    assert (base["row"], method["row"], method["seed"]) == ("base", "method", 3)
    assert base["probe"]["margin"] != method["probe"]["margin"]
    assert base["num_samples"]["temporal"] > 0
    assert method["probe"]["by_kind"]["reverse"]["win_rate"] >= 0
    assert (base["sft_start"], method["phases"]) == (None, ["dpo", "sft"])
    assert len(method["sft_start"]["loss"]) > 0
    assert study["command"].startswith("python -m research.study ")
    assert "## main" in (tmp_path / "out" / "study.md").read_text()
    third = start(tmp_path)
    assert " 0 to do" in third.communicate(timeout=120)[0]
    assert json.loads((tmp_path / "out" / "study.json").read_text())["rows"] == study["rows"]
