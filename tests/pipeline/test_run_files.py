"""What lies in a run directory beside its rows."""

import pytest
from rich.console import Console

from tempo.config import Config
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.run_files import settle_config


def test_a_kill_while_stages_are_discarded_leaves_those_that_the_others_stand_on(tmp_path, monkeypatch):
    """Else rows would be left whose origin is gone, and the old config could not go on with them."""
    context = Context(Config.model_validate({"videos": {"paths": ["unused"]}}), tmp_path)
    store, names = RunStore(tmp_path), ("shots", "clips", "captions")
    for name in names:
        store.begin(name, "old")
        store.finish(name, "old")
    forget = RunStore.forget

    def killed(self, name):
        if name == "clips":
            raise KeyboardInterrupt
        forget(self, name)

    monkeypatch.setattr(RunStore, "forget", killed)
    with pytest.raises(KeyboardInterrupt):
        settle_config(context, names, Console(quiet=True), redo=True)
    assert [name for name in names if store.is_done(name)] == ["shots", "clips"]
