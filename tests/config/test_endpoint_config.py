"""The [endpoint] section: what it refuses, what it makes stale, and that no key stands in it."""

import pytest

from tempo.config import load_config, parse_config
from tempo.engine.types import Context
from tempo.pipeline.preflight import check_inputs
from tempo.pipeline.run_files import write_config
from tempo.pipeline.stages import NAMES, fingerprints, run_stages

OWN = {"videos": {"paths": ["films"]}}
SERVER = {"url": "http://localhost:8000/v1", "model": "m"}


def config(endpoint=None, **sections):
    """The configuration of somebody's own videos with this server."""
    return parse_config({**OWN, "endpoint": {**SERVER, **(endpoint or {})}, **sections})


def refusal(endpoint=None, **sections):
    """What is said against it."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the words
        config(endpoint, **sections)
    return str(caught.value)


def test_url_and_model_are_enough_and_nothing_is_asked_of_a_server_by_default():
    assert config().endpoint.server == "vllm"
    assert parse_config(OWN).endpoint is None


@pytest.mark.parametrize("url", ["http://h", "https://h.example:1/v1/", "http://[::1]:80/a/b"])
def test_url_of_a_server_is_taken(url):
    assert config({"url": url}).endpoint.url == url


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8000", "ftp://h/v1", "http://", "http://h /v1", "http://h:99999/v1", "http://h:x/v1",
        "http://[h/v1", "http://h/v1?key=s3cret", "http://h/#s3cret", "http://me:s3cret@h/v1",
        "https://s3cret@h", "http://h/a@s3cret", "http://h/v1\nX: s3cret",
    ],
)  # fmt: skip
def test_url_with_anything_else_in_it_is_refused_and_not_shown(url):
    said = refusal({"url": url})
    assert said.startswith("endpoint: url must be like")
    assert "s3cret" not in said


@pytest.mark.parametrize("name", ["sk-s3cret", "s3cret", "S3CRET=1", "a b", "1ABC"])
def test_key_in_the_place_of_its_name_is_refused_and_not_shown(name):
    said = refusal({"api_key_env": name})
    assert said.startswith("endpoint: api_key_env must be the name")
    assert name not in said


def test_section_that_lacks_a_key_is_not_shown():
    with pytest.raises(ValueError, match=r"^endpoint\.model: Field required$"):
        parse_config({**OWN, "endpoint": {"url": "http://me:s3cret@h"}})


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        ({"api_key": "s3cret"}, "endpoint.api_key: unknown key"),
        ({"model": ""}, "endpoint.model"),
        ({"server": "ollama"}, "endpoint.server"),
        ({"concurrency": 0}, "endpoint.concurrency"),
        ({"retries": 0}, "endpoint.retries"),
        ({"timeout_seconds": 0}, "endpoint.timeout_seconds"),
        ({"backoff_seconds": -1}, "endpoint.backoff_seconds"),
    ],
)
def test_bad_value_is_refused_by_key(endpoint, key):
    said = refusal(endpoint)
    assert said.startswith(key)
    assert "s3cret" not in said


@pytest.mark.parametrize("name", ["captions", "responses"])
def test_option_that_a_server_makes_idle_is_refused(name):
    said = refusal(**{name: {"batch_size": 8}})
    assert f"{name}.batch_size would do nothing" in said
    assert "endpoint.concurrency" in said


@pytest.mark.parametrize("penalised", ["captions", "responses"])
def test_server_without_a_repetition_penalty_needs_it_switched_off(penalised):
    off = {"repetition_penalty": 1.0}
    sections = {"captions": off, "responses": off}
    assert config({"server": "other"}, **sections).endpoint.server == "other"
    del sections[penalised]
    assert f"{penalised}.repetition_penalty 1.05 would do nothing" in refusal({"server": "other"}, **sections)


def test_captions_that_are_never_made_need_no_penalty_switched_off():
    responses = {"input_form": "video", "repetition_penalty": 1.0}
    assert config({"server": "other"}, responses=responses).endpoint.server == "other"


def stale(one, other):
    """Stages whose rows differ between two configurations, in order."""
    first, second = fingerprints(one), fingerprints(other)
    return [name for name in NAMES if first[name] != second[name]]


@pytest.mark.parametrize("endpoint", [{"model": "n"}, {"server": "sglang"}])
def test_another_model_behind_the_server_makes_captions_stale(endpoint):
    assert stale(config(), config(endpoint))[0] == "captions"
    assert stale(config(), parse_config(OWN))[0] == "captions"


@pytest.mark.parametrize(
    "endpoint",
    [
        {"url": "https://elsewhere/v1"}, {"concurrency": 1}, {"retries": 9}, {"timeout_seconds": 1},
        {"connect_timeout_seconds": 1}, {"backoff_seconds": 3}, {"api_key_env": "KEY"},
    ],
)  # fmt: skip
def test_where_the_server_is_and_how_it_is_asked_makes_nothing_stale(endpoint):
    assert stale(config(), config(endpoint)) == []


def test_it_is_read_back_from_a_run_the_same(tmp_path):
    made = config({"api_key_env": "KEY", "server": "lmdeploy"})
    write_config(Context(made, tmp_path))
    assert load_config(tmp_path / "config.toml") == made


def test_missing_key_is_said_before_any_work(monkeypatch, tmp_path):
    monkeypatch.delenv("TEMPO_KEY", raising=False)
    (tmp_path / "films").mkdir()
    made = parse_config(
        {"videos": {"paths": [str(tmp_path / "films")]}, "endpoint": {**SERVER, "api_key_env": "TEMPO_KEY"}}
    )
    with pytest.raises(ValueError, match=r"endpoint\.api_key_env.*TEMPO_KEY is not set"):
        run_stages(Context(made, tmp_path / "out"), None)
    assert not (tmp_path / "out").exists()
    check_inputs(made, ["training"], with_model=True)
