"""The wheel runs the demo in an environment of its own, without the checkout; for `make test-all`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: The packages of this environment must not be seen.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def run(*command, cwd):
    """Standard output of a command that must not fail."""
    ended = subprocess.run(
        [*map(str, command)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.wheel
def test_the_wheel_runs_the_demo_in_an_empty_environment(tmp_path):
    pytest.importorskip("build")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    pip = [tmp_path / "env/bin/pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    # As in the Makefile: a torch for CPUs, and of torchvision only its Python part.
    run(*pip, "torch", "numpy", cwd=tmp_path)
    run(*pip, "--no-deps", "torchvision", cwd=tmp_path)
    run(*pip, wheel, cwd=tmp_path)
    shutil.copy(ROOT / "configs" / "tiny.toml", tmp_path)
    short = ["--set", "synthetic.num_videos=16", "--set", "synthetic.num_held_out=4"]
    printed = run(tmp_path / "env/bin/tempo", "run", "tiny.toml", "--out", "out", *short, cwd=tmp_path)
    assert "sft_only" in printed
    assert (tmp_path / "out" / "report.html").stat().st_size > 0
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
