"""What all tests share: one torch thread (two cores serve more than one process), and quiet libraries."""

import os
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
