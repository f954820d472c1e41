"""A disk that is full stops the run with one message; with room again, it ends as if nothing had been."""

import resource
import subprocess
import sys

import pytest
from video_material import moving


@pytest.fixture
def run(render, tmp_path):
    """A function that runs `tempo run --until clips` with files of limited size, in processes of its own."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        images = [image for seed in range(4) for image in moving(seed + ord(name), 20)]
        render(images, f"videos/{name}.mp4")
    config = tmp_path / "config.toml"
    config.write_text(f"[run]\nnum_workers = 2\n[videos]\npaths = [{str(folder)!r}]\n")

    def call(out, max_bytes=resource.RLIM_INFINITY):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

        command = [sys.executable, "-m", "tempo", "run", str(config), "--out", str(out), "--until", "clips"]
        return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=240)

    return call


def files(directory):
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_a_full_disk_is_one_message_and_the_run_goes_on_later(run, tmp_path):
    full = run(tmp_path / "full", max_bytes=9000)
    assert full.returncode == 2, full.stderr
    assert "the disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "full" / "skipped.jsonl").exists()
    assert run(tmp_path / "full").returncode == 0
    assert run(tmp_path / "whole").returncode == 0
    assert files(tmp_path / "full") == files(tmp_path / "whole")
