"""Which changes of [endpoint] make captions again, and that its key is checked before any work."""

import pytest

from tempo.config import parse_config
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import NAMES

OWN = {"videos": {"paths": ["films"]}}
SERVER = {"url": "http://localhost:8000/v1", "model": "m"}


def stale(endpoint):
    """Stages whose rows differ from those by SERVER, in order; without an endpoint for None."""
    changed = parse_config({**OWN, "endpoint": {**SERVER, **endpoint}} if endpoint is not None else OWN)
    first, second = fingerprints(parse_config({**OWN, "endpoint": SERVER})), fingerprints(changed)
    return [name for name in NAMES if first[name] != second[name]]


@pytest.mark.parametrize("endpoint", [{"model": "n"}, {"server": "sglang"}, None])
def test_another_model_behind_the_server_makes_captions_again(endpoint):
    assert stale(endpoint)[0] == "captions"


@pytest.mark.parametrize(
    "endpoint",
    [
        {"url": "https://elsewhere/v1"}, {"concurrency": 1}, {"max_retries": 9}, {"timeout_seconds": 1},
        {"api_key_env": "KEY"},
    ],
)  # fmt: skip
def test_where_the_server_is_and_how_it_is_asked_changes_nothing(endpoint):
    assert stale(endpoint) == []


def test_missing_key_ends_the_run_before_any_work(monkeypatch, tmp_path):
    monkeypatch.delenv("TEMPO_KEY", raising=False)
    (tmp_path / "films").mkdir()
    config = parse_config(
        {"videos": {"paths": [str(tmp_path / "films")]}, "endpoint": {**SERVER, "api_key_env": "TEMPO_KEY"}}
    )
    with pytest.raises(ValueError, match=r"endpoint\.api_key_env.*TEMPO_KEY is not set"):
        run_stages(Context(config, tmp_path / "out"), None)
    assert not (tmp_path / "out").exists()
