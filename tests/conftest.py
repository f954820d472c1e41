"""What all tests share: one torch thread (two cores serve more than one process), and quiet libraries."""

import os
import sys

import pytest
from tiny_film import film

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def lm():
    """The embedded model, which no test changes."""
    from tempo.model.loading import load_model

    return load_model("embedded")


@pytest.fixture
def films(tmp_path):
    """A folder with two videos, a copy of one, a broken one and a text."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.mp4")
    film(folder / "b.mp4", 150)
    (folder / "copy of a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("no video either")
    return folder


@pytest.fixture
def tempo(monkeypatch, capsys):
    """A function that runs a command in this process and returns (exit code, stdout, stderr)."""

    # Not at the top: libraries read the settings above when they are imported.
    from tempo.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tempo", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return run
