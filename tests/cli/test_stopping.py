"""SIGTERM raises where a run can end what it started, and is otherwise as it was."""

import signal

import pytest

from tempo.cli.errors import Terminated, terminable


def test_sigterm_raises_within_and_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_one_of_several_processes_just_ends(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) == before
