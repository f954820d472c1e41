"""A study from beginning to end: rows share what they can, and a kill changes nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

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
[set]
"pairs.held_out_share" = 0.4
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
says = "as it is"
[rows.sft_only]
says = "tuned"
phases = ["sft"]
[rows.method]
says = "aligned, then tuned"
phases = ["dpo", "sft"]
[rows.ceiling]
says = "true pairs"
phases = ["dpo", "sft"]
pairs_by = "truth"
"""


def begin(folder, *options):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tempo", "study", "study.toml", "--out", "out", *options]
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study that was killed when its first phase was done, and then gone on with; with what it printed."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "base.toml").write_text(BASE)
    (folder / "study.toml").write_text(STUDY)
    first = begin(folder)
    limit = time.monotonic() + 240
    while not list(folder.glob("out/data/*/phases/*/result.json")):
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < limit, "no phase was done"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = begin(folder)
    said = second.communicate(timeout=400)[0]
    assert second.returncode == 0, said
    return folder, said


def test_a_row_and_a_seed_have_their_figures(done):
    folder, _ = done
    study = json.loads((folder / "out" / "study.json").read_text())
    rows = {row["row"]: row for row in study["rows"]}
    assert list(rows) == ["base", "sft_only", "method", "ceiling"]
    assert {row["seed"] for row in rows.values()} == {3}
    # Where every caption was right, true pairs are the model's own.
    trained = [rows[name] for name in ("base", "sft_only", "method")]
    assert len({json.dumps(row["accuracy"]) + str(row["probe"]) for row in trained}) == 3
    for row in rows.values():
        assert 0 <= row["accuracy"]["temporal"] <= 1
        assert row["num_samples"]["temporal"] > 0
        assert row["probe"]["by_kind"]["reverse"]["win_rate"] >= 0
    assert rows["base"]["sft_start"] is None
    assert len(rows["method"]["sft_start"]["loss"]) == len(rows["sft_only"]["sft_start"]["loss"]) > 0
    assert rows["method"]["num_pairs"] > 0
    assert study["command"] == "tempo study study.toml --out out"
    assert (folder / "out" / "study.html").exists()


def test_the_restart_went_on_where_the_kill_came(done):
    _, said = done
    total, left = map(int, re.search(r"study: (\d+) jobs, (\d+) to do", said).groups())
    # Data and one phase at least were there.
    assert left <= total - 2


def test_the_second_time_nothing_is_left_to_do(done):
    folder, _ = done
    before = json.loads((folder / "out" / "study.json").read_text())
    again = begin(folder)
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 0, said
    assert " 0 to do" in said
    after = json.loads((folder / "out" / "study.json").read_text())
    assert after["rows"] == before["rows"]
