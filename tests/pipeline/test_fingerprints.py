"""What makes a stage stale: its keys, its files, its checkpoints, and the stages before it."""

import itertools
import os
import shutil

import pytest
from rich.console import Console

from tempo.config import parse_config
from tempo.config.load import override
from tempo.core import hashing
from tempo.core.store import RunStore, write_config
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import NAMES

QUIET = Console(quiet=True)

SFT = {"name": "sft", "objective": "sft", "learning_rate": 1e-3}


def configuration(*overrides):
    return parse_config(override({"synthetic": {}}, overrides))


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
    ],
)
def test_a_change_makes_its_stage_and_what_follows_stale(override, first_stale):
    old, new = fingerprints(configuration()), fingerprints(configuration(override))
    stale = [name for name in NAMES if old[name] != new[name]]
    assert stale == list(NAMES[NAMES.index(first_stale) :])


@pytest.mark.parametrize(
    ("key", "first_stale", "beside"),
    [
        ("pairs.import_from", "pairs", {}),
        ("training.instructions", "training", {"phases": [SFT]}),
        ("evaluation.benchmark", "evaluation", {}),
    ],
)
def test_another_content_of_a_named_file_makes_its_stage_and_what_follows_stale(
    tmp_path, key, first_stale, beside
):
    path = tmp_path / "rows.jsonl"
    section, _, name = key.partition(".")
    config = parse_config({"videos": {"paths": ["x"]}, section: {name: str(path), **beside}})
    seen = []
    for text in ("one\n", "two\n", None, "one\n"):
        path.unlink() if text is None else path.write_text(text)
        seen.append(fingerprints(config))
    stale = [name for name in NAMES if seen[0][name] != seen[1][name]]
    assert stale == list(NAMES[NAMES.index(first_stale) :])
    # A file that is gone is no error here: `tempo status` wants fingerprints too.
    assert seen[2][first_stale] not in (seen[0][first_stale], seen[1][first_stale])
    assert seen[3] == seen[0]


def test_a_named_file_that_changed_is_said_and_one_that_is_gone_is_named(tmp_path):
    videos, named = tmp_path / "videos", tmp_path / "benchmark.jsonl"
    videos.mkdir()
    named.write_text("")
    sections = {"videos": {"paths": [str(videos)]}, "evaluation": {"benchmark": str(named)}}
    context = Context(parse_config(sections), tmp_path / "run")
    RunStore(context.directory).begin("evaluation", fingerprints(context.config)["evaluation"])
    write_config(context.directory, context.config.model_dump(mode="json", exclude_none=True))
    named.write_text("{}")
    with pytest.raises(ValueError, match=r"\(a file that it names has another content\).*: evaluation\."):
        run_stages(context, QUIET, until="videos")
    named.unlink()
    with pytest.raises(ValueError, match=r"^evaluation\.benchmark: .* does not exist"):
        run_stages(context, QUIET, until="videos")


@pytest.fixture
def checkpoint(tmp_path):
    """A function that (re)writes a part of a checkpoint, and its directory."""
    directory, times = tmp_path / "checkpoint", itertools.count(1_700_000_000)
    directory.mkdir()

    def write(name, content):
        (directory / name).write_bytes(content)
        # Two writes may be quicker than the clock of the file system ticks.
        os.utime(directory / name, (second := next(times), second))

    write("config.json", b"{}")
    write("model.safetensors", bytes(2000))
    write("README.md", b"a card")
    return write, directory


@pytest.mark.parametrize(("key", "first_stale"), [("model.path", "captions"), ("clips.features", "clips")])
def test_another_checkpoint_under_the_same_path_makes_what_it_makes_stale(checkpoint, key, first_stale):
    write, directory = checkpoint
    section, _, name = key.partition(".")
    config = parse_config({"videos": {"paths": ["x"]}, section: {name: str(directory)}})
    first = fingerprints(config)
    write("README.md", b"another card")
    os.utime(directory / "model.safetensors")
    assert fingerprints(config) == first, "only the content counts, and not that of its card"
    for name, content in (("model.safetensors", bytes(1999) + b"1"), ("config.json", b"{ }")):
        before = fingerprints(config)
        write(name, content)
        after = fingerprints(config)
        stale = [stage for stage in NAMES if before[stage] != after[stage]]
        assert stale == list(NAMES[NAMES.index(first_stale) :])
    shutil.rmtree(directory)
    assert fingerprints(config)[first_stale] != first[first_stale]


def test_large_weights_are_looked_at_in_places_and_not_read_whole(checkpoint, monkeypatch):
    write, directory = checkpoint
    for name, value in (("WHOLE_BYTES", 1000), ("NUM_BLOCKS", 3), ("BLOCK_BYTES", 100)):
        monkeypatch.setattr(hashing, name, value)
    config = parse_config({"videos": {"paths": ["x"]}, "model": {"path": str(directory)}})

    def seen(content):
        write("model.safetensors", content)
        return fingerprints(config)["captions"]

    zeros = seen(bytes(2000))
    for place in (0, 99, 950, 1049, 1900, 1999):
        assert seen(bytes(place) + b"1" + bytes(1999 - place)) != zeros
    assert seen(bytes(2001)) != zeros
    assert seen(bytes(500) + b"1" + bytes(1499)) == zeros


def test_without_the_model_that_rows_came_from_nothing_is_called_stale(checkpoint, tmp_path):
    """Nor discarded: whether it is still the same model cannot be told."""
    _, directory = checkpoint
    (tmp_path / "videos").mkdir()
    sections = {"videos": {"paths": [str(tmp_path / "videos")]}, "model": {"path": str(directory)}}
    context = Context(parse_config(sections), tmp_path / "run")
    store = RunStore(context.directory)
    store.finish("captions", fingerprints(context.config)["captions"])
    shutil.rmtree(directory)
    with pytest.raises(ValueError, match=r"^model\.path .* does not exist"):
        run_stages(context, QUIET, until="clips", redo=True)
    assert store.is_done("captions")


@pytest.mark.parametrize(
    "override",
    [
        "run.num_workers=2",
        "run.engine=ray",
        "model.device=cpu",
        "training.checkpoint_minutes=1",
        "videos.timeout_seconds=9",
    ],
)
def test_what_changes_no_result_makes_nothing_stale(override):
    assert fingerprints(configuration()) == fingerprints(configuration(override))
