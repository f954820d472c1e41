"""The script for a GPU runs here on a CPU: it makes a model in a few steps, and runs the main rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

#: A model trained for two steps makes no usable descriptions, so the rows use the built-in model.
STUDY = f"""
extends = "{REPOSITORY / "configs" / "study_large.toml"}"
probe_videos = 1
held_out_share = 0.4
[set]
"model.path" = "embedded"
"synthetic.num_videos" = 6
"synthetic.num_held_out" = 2
"synthetic.plain_share" = 0.0
"synthetic.max_shots" = 6
"""

TINY = {"SIZE": "small", "DEVICE": "cpu", "VISION_STEPS": "2", "STEPS": "2", "LOADERS": "2"}
TINY |= {"STORIES": "2", "SEEDS": "3", "WORKERS": "1"}


@pytest.mark.slow
def test_the_script_ends_with_the_main_rows_and_repeats_nothing(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    places = {"WORK": tmp_path / "work", "OUT": tmp_path / "out", "STUDY": tmp_path / "study.toml"}
    env = os.environ | TINY | {name: str(path) for name, path in places.items()} | {"PYTHON": sys.executable}
    script = ["bash", str(REPOSITORY / "benchmarks" / "gpu_study.sh")]
    first = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    kept = {"training.log", "card.md", "study.log", "study.json", "study.md", "study"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == kept
    assert "3.6 M parameters" in (tmp_path / "out" / "card.md").read_text()
    rows = json.loads((tmp_path / "out" / "study.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["base", "sft_only", "sft_then_dpo", "method", "ceiling"]
    assert all(row["num_steps"] > 0 for row in rows[1:])
    again = subprocess.run(script, env=env, capture_output=True, text=True, check=True)
    assert "vision step" not in again.stdout
    assert "seed 3" not in again.stdout
