"""The actors of a stage, on a Ray that is made up: what a person is told while they do not come."""

import sys
from types import SimpleNamespace

from tempo.config import Config
from tempo.engine import ray_crew
from tempo.engine.ray_crew import Crew
from tempo.engine.types import Context


def test_a_cluster_without_room_is_told_once(tmp_path, monkeypatch, caplog):
    waits = []

    def wait(calls, *, timeout):
        waits.append(timeout)
        return (calls, []) if len(waits) > 3 else ([], calls)

    actor = SimpleNamespace(prepare=SimpleNamespace(remote=lambda *_: "made"))
    ray = SimpleNamespace(
        remote=lambda **_: lambda kind: SimpleNamespace(remote=lambda: actor),
        wait=wait,
        get=lambda call: [],
        exceptions=SimpleNamespace(
            RayTaskError=RuntimeError,
            RayActorError=KeyError,
            OutOfMemoryError=KeyError,
            ObjectLostError=KeyError,
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    crew = Crew("tempo.x:y", Context(Config.model_validate({"videos": {"paths": ["unused"]}}), tmp_path), 1)
    crew.hire()
    assert crew.wait() == (actor, None, [])
    assert waits == [ray_crew.TELL_SECONDS] * 4
    (said,) = caplog.messages
    assert "tempo.x" in said
    assert "waiting for a free GPU" in said
