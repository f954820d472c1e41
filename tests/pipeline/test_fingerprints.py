"""A stage becomes stale when its keys, files or checkpoints change, or a stage before it."""

import itertools
import os
import shutil

import pytest
from rich.console import Console
from sample_material import config_of, context_of

from tempo.config import parse_config
from tempo.config.load import override
from tempo.core import hashing
from tempo.core.records import Review
from tempo.core.store import RunStore, write_config
from tempo.engine.types import Context
from tempo.pipeline.runner import run_stages, take_over
from tempo.pipeline.stages import NAMES, STAGES, fingerprints

QUIET = Console(quiet=True)

SFT = {"name": "sft", "objective": "sft", "learning_rate": 1e-3}


def configuration(*overrides):
    return parse_config(override({"synthetic": {}}, overrides))


SERVER = {"url": "http://localhost:8000/v1", "model": "m"}


def stale(before, after):
    """The stages whose fingerprints differ, in order."""
    return tuple(name for name in NAMES if before[name] != after[name])


def after(first_stale):
    """A stage and all after it; none for None."""
    return NAMES[NAMES.index(first_stale) :] if first_stale else ()


@pytest.mark.parametrize(
    ("override", "first_stale"),
    [
        ("run.seed=1", "synthetic"),
        ("shots.min_seconds=0.3", "shots"),
        ("frames.fps=2.0", "shots"),
        ("perturbations.rule=paper", "perturbations"),
        ("responses.temperature=0.5", "responses"),
        ("training.max_tokens=9999", "training"),
        ("report.num_pairs=2", "report"),
        ("run.num_workers=2", None),
        ("run.engine=ray", None),
        ("model.device=cpu", None),
        ("training.checkpoint_minutes=1", None),
        ("videos.timeout_seconds=9", None),
    ],
)
def test_a_change_makes_its_stage_and_those_after_it_stale(override, first_stale):
    changed = fingerprints(configuration(override))
    assert stale(fingerprints(configuration()), changed) == after(first_stale)


@pytest.mark.parametrize(
    ("endpoint", "is_stale"),
    [
        ({**SERVER, "model": "n"}, True), ({**SERVER, "server": "sglang"}, True), (None, True),
        ({**SERVER, "url": "https://elsewhere/v1"}, False), ({**SERVER, "concurrency": 1}, False),
        ({**SERVER, "max_retries": 9, "timeout_seconds": 1, "api_key_env": "KEY"}, False),
    ],
)  # fmt: skip
def test_only_another_model_behind_a_server_makes_captions_again(endpoint, is_stale):
    old, new = (fingerprints(config_of(endpoint=one)) for one in (SERVER, endpoint))
    assert stale(old, new)[:1] == (("captions",) if is_stale else ())


@pytest.mark.parametrize(
    ("key", "first_stale", "others"),
    [
        ("pairs.import_from", "pairs", {}),
        ("training.instructions", "training", {"phases": [SFT]}),
        ("evaluation.benchmark", "evaluation", {}),
    ],
)
def test_another_content_of_a_named_file_makes_its_stage_and_what_follows_stale(
    tmp_path, key, first_stale, others
):
    path = tmp_path / "rows.jsonl"
    section, _, name = key.partition(".")
    config = config_of(**{section: {name: str(path), **others}})
    seen = []
    for text in ("one\n", "two\n", None, "one\n"):
        path.unlink() if text is None else path.write_text(text)
        seen.append(fingerprints(config))
    assert stale(*seen[:2]) == after(first_stale)
    # A missing file is not an error here: `tempo status` needs fingerprints too.
    assert seen[2][first_stale] not in (seen[0][first_stale], seen[1][first_stale])
    assert seen[3] == seen[0]


def test_a_changed_file_and_a_missing_file_are_named(tmp_path):
    videos, named = tmp_path / "videos", tmp_path / "benchmark.jsonl"
    videos.mkdir()
    named.write_text("")
    sections = {"videos": {"paths": [str(videos)]}, "evaluation": {"benchmark": str(named)}}
    context = context_of(tmp_path / "run", **sections)
    RunStore(context.directory).begin("evaluation", fingerprints(context.config)["evaluation"])
    write_config(context.directory, context.config.model_dump(mode="json", exclude_none=True))
    named.write_text("{}")
    with pytest.raises(
        ValueError,
        match=r"\(the content of a file that they name, or a review, has changed\).*: evaluation\.",
    ):
        run_stages(context, QUIET, until="videos")
    named.unlink()
    with pytest.raises(ValueError, match=r"^evaluation\.benchmark: .* does not exist"):
        run_stages(context, QUIET, until="videos")


def test_only_a_rejected_pair_makes_the_pairs_stale(tmp_path):
    config, store = configuration(), RunStore(tmp_path)
    before = fingerprints(config, tmp_path)
    for number, (decision, is_stale) in enumerate((("keep", False), ("reject", True), ("keep", False))):
        store.append("reviews", [Review(id="a/drop-02", decision=decision, texts="0123")])
        found = stale(before, fingerprints(config, tmp_path))
        assert found == (after("pairs") if is_stale else ()), number


def test_a_run_from_another_one_takes_over_its_reviews(tmp_path):
    source, target = RunStore(tmp_path / "a"), RunStore(tmp_path / "b")
    config = configuration()
    source.append("reviews", [Review(id="a/drop-02", decision="reject", texts="0123")])
    for name in NAMES[: NAMES.index("pairs") + 1]:
        source.finish(name, fingerprints(config, source.directory)[name])
    take_over(source.directory, Context(config, target.directory), STAGES, QUIET)
    assert target.reviews() == source.reviews()
    assert target.is_done("pairs")
    target.append("reviews", [Review(id="a/drop-02", decision="keep", texts="0123")])
    assert source.reviews()["a/drop-02"].decision == "reject"


@pytest.fixture
def checkpoint(tmp_path):
    """A function that (re)writes a part of a checkpoint, and its directory."""
    directory, times = tmp_path / "checkpoint", itertools.count(1_700_000_000)
    directory.mkdir()

    def write(name, content):
        (directory / name).write_bytes(content)
        # Two writes may have the same time stamp.
        os.utime(directory / name, (second := next(times), second))

    write("config.json", b"{}")
    write("model.safetensors", bytes(2000))
    write("README.md", b"a card")
    return write, directory


@pytest.mark.parametrize(("key", "first_stale"), [("model.path", "captions"), ("clips.features", "clips")])
def test_another_checkpoint_under_the_same_path_makes_what_it_makes_stale(checkpoint, key, first_stale):
    write, directory = checkpoint
    section, _, name = key.partition(".")
    config = config_of(**{section: {name: str(directory)}})
    first = fingerprints(config)
    write("README.md", b"another card")
    os.utime(directory / "model.safetensors")
    assert fingerprints(config) == first, "neither times nor the model card count"
    for name, content in (("model.safetensors", bytes(1999) + b"1"), ("config.json", b"{ }")):
        before = fingerprints(config)
        write(name, content)
        assert stale(before, fingerprints(config)) == after(first_stale)
    shutil.rmtree(directory)
    assert fingerprints(config)[first_stale] != first[first_stale]


def test_of_large_weights_some_blocks_and_the_size_are_hashed(checkpoint, monkeypatch):
    write, directory = checkpoint
    for name, value in (("WHOLE_BYTES", 1000), ("NUM_BLOCKS", 3), ("BLOCK_BYTES", 100)):
        monkeypatch.setattr(hashing, name, value)
    config = config_of(model={"path": str(directory)})

    def hash_of(content):
        write("model.safetensors", content)
        return fingerprints(config)["captions"]

    zeros = hash_of(bytes(2000))
    for place in (0, 99, 950, 1049, 1900, 1999):
        assert hash_of(bytes(place) + b"1" + bytes(1999 - place)) != zeros
    assert hash_of(bytes(2001)) != zeros
    assert hash_of(bytes(500) + b"1" + bytes(1499)) == zeros
