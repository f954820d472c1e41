"""How many videos a worker is given together."""

import pytest
from rich.console import Console

from tempo.config import Config
from tempo.core.records import Captions
from tempo.core.store import RunStore
from tempo.engine import pool as engine
from tempo.engine.types import Context
from tempo.pipeline.steps import MapStep


@pytest.mark.parametrize(
    ("place", "concurrency", "sizes"),
    [("here", None, [8, 8, 8, 6]), ("here", 40, [20, 10]), ("here", 4, [8, 8, 8, 6]), ("pool", 40, [1] * 30)],
)
def test_a_server_is_given_as_many_videos_as_keep_it_busy(tmp_path, monkeypatch, place, concurrency, sizes):
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": concurrency}
    sections = {"endpoint": endpoint} if concurrency else {}
    context = Context(Config.model_validate({"videos": {"paths": ["unused"]}, **sections}), tmp_path)
    store = RunStore(tmp_path)
    store.append("captions", [Captions(id=str(i), captions=("One.",)) for i in range(30)])
    given = []

    def map_batches(worker, context, batches, **_):
        given.extend(map(len, batches))
        return iter(())

    monkeypatch.setattr(engine, "map_batches", map_batches)
    MapStep("tempo.preference.x:make_worker", "captions", Captions, place)(
        context, store, Console(quiet=True)
    )
    assert given == sizes
