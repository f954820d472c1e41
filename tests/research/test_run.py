"""A small study runs, continues after a kill, and repeats nothing; seeds run in separate processes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from made_up_study import ROOT
from safetensors.torch import load_file

from research.study.__main__ import main
from research.study.run import map_seeds, run_study
from tempo.synthetic import language
from tempo.synthetic.world import Story

BASE = """
synthetic = { num_videos = 5, num_held_out = 1, plain_share = 0.0, max_shots = 4 }
frames.max_pixels = 4096
captions.max_new_tokens = 48
responses.max_new_tokens = 96
"""

STUDY = """
base = "base.toml"
seeds = [3]
probe_videos = 1
held_out_share = 0.4
set = { "evaluation.held_out_share" = 0 }
phases = [
  { name = "dpo", objective = "dpo", learning_rate = 1e-3 },
  { name = "sft", objective = "sft", learning_rate = 1e-3 },
]
claims = [{ name = "gain", source = "aim", text = "Training helps.", rows = [["method", "base"]] }]
[rows]
base = { description = "the base model" }
sft_only = { description = "SFT", phases = ["sft"] }
sft_then_dpo = { description = "SFT, then DPO", phases = ["sft", "dpo"] }
method = { description = "DPO on true pairs, then SFT", phases = ["dpo", "sft"], pairs_from = "truth" }
again = { description = "more DPO", start = "method", pairs_from = "sft_then_dpo", phases = ["dpo"] }
noisy = { description = "all chosen answers are wrong", phases = ["dpo"], noise = 1.0 }
noisy_too = { description = "the same pairs", phases = ["dpo"], noise = 1.0, dpo = { learning_rate = 5e-4 } }
"""

#: A row that cannot be trained, after all others.
FAILING = """
[rows.empty]
description = "all pairs are held out"
phases = ["dpo"]
held_out_share = 0.9999999
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study that was killed after its first phase, and what its second start printed."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "base.toml").write_text(BASE)
    (folder / "study.toml").write_text(STUDY)
    options = [f"{folder}/study.toml", "--out", f"{folder}/out"]
    command = [sys.executable, "-m", "research.study", *options]
    first, limit = subprocess.Popen(command, cwd=ROOT), time.monotonic() + 240
    while not list(folder.glob("out/3-sft_only-*/train/01-sft/done.json")):
        assert first.poll() is None
        assert time.monotonic() < limit, "no phase was done"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", ["x", *options])
        main()
    return folder, printed.getvalue()


def test_a_study_continues_after_a_kill_and_ends_with_its_figures(study, capsys):
    folder, printed = study
    assert "seed 3, base:" not in printed
    assert "seed 3, method:" in printed
    assert "Training helps. | **cannot be told**" in printed
    result = json.loads((folder / "out" / "study.json").read_text())
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["base", "sft_only", "sft_then_dpo", "method", "again", "noisy", "noisy_too"]
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


def test_rows_share_phases_and_pairs_and_true_pairs_follow_the_scripts(study):
    def directory(row):
        (found,) = study[0].glob(f"out/3-{row}-*")
        return found

    def table(row, name, key="id"):
        return {line[key]: line for line in map(json.loads, (directory(row) / name).open())}

    metrics = "train/01-sft/metrics.jsonl"
    assert (directory("sft_only") / metrics).samefile(directory("sft_then_dpo") / metrics)
    stacks = [
        load_file(directory(row) / "adapter/adapter_model.safetensors")
        for row in ("sft_only", "sft_then_dpo")
    ]
    for name, short in stacks[0].items():
        long = stacks[1][name]
        assert torch.equal(short, long[: short.shape[0], : short.shape[1]])
        assert short.numel() < long.numel()
    texts = [
        {name: row["rejected"] for name, row in table(row, "pairs.jsonl").items()}
        for row in ("sft_then_dpo", "again", "method")
    ]
    assert texts[0] == texts[1] != texts[2]
    clean, noisy, too = (table(row, "pairs.jsonl") for row in ("sft_then_dpo", "noisy", "noisy_too"))
    assert clean.keys() == noisy.keys()
    assert all(too[name] | {"video": pair["video"]} == pair for name, pair in noisy.items())
    for name, pair in noisy.items():
        of_level = [
            p for p in clean.values() if (p["video_id"], p["level"]) == (pair["video_id"], pair["level"])
        ]
        assert pair["chosen"] == of_level[-1]["rejected"]
        key = "chosen" if pair["id"] == of_level[-1]["id"] else "rejected"
        assert pair["rejected"] == clean[name][key]
    scripts, videos = table("method", "synthetic/videos/scripts.jsonl"), table("method", "videos.jsonl")
    captions, responses = table("method", "captions.jsonl"), table("method", "responses.jsonl")
    assert captions
    for name, row in captions.items():
        events = Story.model_validate(scripts[Path(videos[name]["path"]).stem]).events
        true = [language.caption(event) for event in events]
        assert row["captions"] == true
        made = responses[name]["rejected"][0]
        assert responses[name]["chosen"] == language.fuse(true)
        assert made["text"] == language.fuse([true[index] for index in made["perturbation"]["order"]])


def test_a_row_that_fails_is_named_and_ends_the_other_seeds(study, capfd):
    folder = study[0]
    (folder / "failing.toml").write_text(STUDY + FAILING)
    with pytest.raises(ValueError, match="empty, seed 3: there are no pairs to train on"):
        run_study(folder / "failing.toml", folder / "out", seeds=[3, 4], num_workers=2, command="again")
    # The rows that were done stay done.
    assert "seed 3" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_process_that_dies_is_reported():
    with pytest.raises(ValueError, match="--workers 1 needs less memory"):
        map_seeds(os._exit, 2, 2)
