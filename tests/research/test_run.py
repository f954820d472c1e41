"""A small study runs, continues after a kill, and does nothing twice; seeds run in processes of their own."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from made_up_study import ROOT

from research.study.run import map_seeds, run_study
from research.study.truth import write_true_captions, write_true_responses
from tempo.config import Config
from tempo.core.files import write_lines
from tempo.core.records import Captions, Clip, Clips, Perturbation, Perturbations, Responses, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.synthetic import language
from tempo.synthetic.world import make_story

STUDY = """
base = "base.toml"
seeds = [3]
probe_videos = 1
set = { "pairs.held_out_share" = 0.4 }
[[phases]]
name = "dpo"
objective = "dpo"
learning_rate = 1e-3
[[phases]]
name = "sft"
objective = "sft"
learning_rate = 1e-3
[rows.base]
description = "the base model"
[rows.sft_only]
description = "SFT"
phases = ["sft"]
[rows.sft_then_dpo]
description = "SFT, then DPO"
phases = ["sft", "dpo"]
[rows.method]
description = "DPO on true pairs, then SFT"
phases = ["dpo", "sft"]
pairs_from = "truth"
[rows.again]
description = "DPO on the pairs of another row, after the method"
start = "method"
pairs_from = "sft_then_dpo"
phases = ["dpo"]
[[claims]]
name = "gain"
source = "aim"
text = "Training helps."
rows = [["method", "base"]]
"""

BASE = """
[synthetic]
num_videos = 5
num_held_out = 1
plain_share = 0.0
max_shots = 4
[frames]
max_pixels = 4096
[captions]
max_new_tokens = 48
[responses]
max_new_tokens = 96
"""

#: A row that cannot be trained, after all others.
FAILING = """
[rows.empty]
description = "no pair is about these kinds"
phases = ["dpo"]
dpo = { kinds = ["swap"] }
data = { "perturbations.kinds" = ["reverse", "swap"], "pairs.max_length_ratio" = 1.0 }
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study that was killed after its first phase, and what its second start printed."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "base.toml").write_text(BASE)
    (folder / "study.toml").write_text(STUDY)
    command = [sys.executable, "-m", "research.study", f"{folder}/study.toml", "--out", f"{folder}/out"]
    first, limit = subprocess.Popen(command, cwd=ROOT), time.monotonic() + 240
    while not list(folder.glob("out/3-sft_only-*/train/01-sft/done.json")):
        assert first.poll() is None
        assert time.monotonic() < limit, "no phase was done"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    return folder, second.stdout


def test_a_study_continues_after_a_kill_and_ends_with_its_figures(study, capsys):
    folder, printed = study
    assert "seed 3, base:" not in printed
    assert "seed 3, method:" in printed
    assert "Training helps. | **cannot be told**" in printed
    result = json.loads((folder / "out" / "study.json").read_text())
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["base", "sft_only", "sft_then_dpo", "method", "again"]
    assert rows["base"]["num_samples"]["temporal"] > 0
    assert rows["base"]["probe"]["margin"] != rows["method"]["probe"]["margin"]
    assert rows["method"]["probe"]["by_kind"]["reverse"]["win_rate"] >= 0
    assert rows["base"]["sft_start"] is None
    assert len(rows["method"]["sft_start"]["loss"]) > 0
    assert rows["again"]["phases"] == ["dpo", "sft", "dpo"]
    assert rows["again"]["num_steps"] > rows["method"]["num_steps"]
    assert result["command"].startswith("python -m research.study ")
    assert "## main" in (folder / "out" / "study.md").read_text()
    # Nothing is left to do.
    run_study(folder / "study.toml", folder / "out", command="again")
    assert "seed 3" not in capsys.readouterr().out
    assert json.loads((folder / "out" / "study.json").read_text())["rows"] == result["rows"]


def test_rows_share_phases_and_pairs(study):
    def directory(row):
        (found,) = study[0].glob(f"out/3-{row}-*")
        return found

    weights = "train/01-sft/model/model.safetensors"
    assert (directory("sft_only") / weights).samefile(directory("sft_then_dpo") / weights)
    pairs = [
        {row["id"]: row["rejected"] for row in map(json.loads, (place / "pairs.jsonl").open())}
        for place in map(directory, ("sft_then_dpo", "again", "method"))
    ]
    assert pairs[0] == pairs[1] != pairs[2]


def test_a_row_that_fails_is_named_and_the_others_stay_done(study, capsys):
    folder = study[0]
    (folder / "failing.toml").write_text(STUDY + FAILING)
    with pytest.raises(ValueError, match="empty, seed 3: no pair to train on"):
        run_study(folder / "failing.toml", folder / "out", command="again")
    assert "seed 3" not in capsys.readouterr().out


def test_seeds_run_in_processes_and_a_failure_ends_them():
    assert map_seeds(str, 3, 2) == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"math domain|positive input"):
        map_seeds(math.log, 2, 2)
    with pytest.raises(ValueError, match="--workers 1 needs less memory"):
        map_seeds(os._exit, 2, 2)


def test_true_captions_and_responses_follow_the_scripts(tmp_path):
    stories = [make_story(0, index, num_shots=(4, 4)) for index in range(2)]
    folder = tmp_path / "synthetic" / "videos"
    write_lines(folder / "scripts.jsonl", (story.model_dump_json() for story in stories))
    clip = Clip(group=0, first_shot=0, num_shots=1, start_seconds=0, end_seconds=1, key_frames=())
    clips = [
        Clips(id=name, path=str(folder / f"{story.id}.mp4"), duration_seconds=4, clips=(clip,) * count)
        for name, story, count in zip("ab", stories, (4, 3), strict=True)
    ]
    store, context = RunStore(tmp_path), Context(Config.model_validate({"synthetic": {}}), tmp_path)
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
