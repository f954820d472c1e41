"""The runner on rows made by hand: batches, stale stages, versions, the environment."""

import contextlib
import io
import itertools
import json
import os

import pytest
from rich.console import Console
from sample_material import context_of

from tempo.core.records import Captions, Shots, Skipped
from tempo.core.store import SKIPPED, RunStore, write_config
from tempo.engine import pool as engine
from tempo.engine.types import Context
from tempo.pipeline.runner import map_stage, run, run_stages
from tempo.pipeline.stages import Stage, fingerprints

QUIET = Console(quiet=True)


@pytest.fixture
def make(tmp_path):
    """A function that makes the context of a run with these sections."""
    (tmp_path / "films").mkdir()

    def context(**sections):
        return context_of(tmp_path / "run", videos={"paths": [str(tmp_path / "films")]}, **sections)

    return context


def finish(context, *names):
    store, wanted = RunStore(context.directory), fingerprints(context.config)
    for name in names:
        store.begin(name, wanted[name])
        store.finish(name, wanted[name])
    write_config(context.directory, context.config.model_dump(mode="json", exclude_none=True))
    return store


@pytest.mark.parametrize(
    ("place", "concurrency", "sizes"),
    [("here", None, [8, 8, 8, 6]), ("here", 40, [20, 10]), ("here", 4, [8, 8, 8, 6]), ("pool", 40, [1] * 30)],
)
def test_a_batch_for_a_server_is_large_enough_to_keep_it_busy(make, monkeypatch, place, concurrency, sizes):
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": concurrency}
    context = make(**({"endpoint": endpoint} if concurrency else {}))
    rows = [Captions(id=str(i), captions=("One.",)) for i in range(30)]
    RunStore(context.directory).append("captions", rows)
    given = []

    def map_batches(worker, context, batches, **_):
        given.extend(map(len, batches))
        return iter(())

    monkeypatch.setattr(engine, "map_batches", map_batches)
    stage = Stage("x", "", reads=(("captions", Captions),), worker="x:y", place=lambda config: place)
    map_stage(stage, context, QUIET)
    assert given == sizes


def test_a_kill_while_stages_are_discarded_keeps_what_the_remaining_ones_depend_on(make, monkeypatch):
    """Otherwise the old configuration could not resume with the rows that are left."""
    names = ("shots", "clips", "captions")
    store = finish(make(), *names)
    forget = RunStore.forget

    def killed(self, name):
        if name == "clips":
            raise KeyboardInterrupt
        forget(self, name)

    monkeypatch.setattr(RunStore, "forget", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stages(make(frames={"fps": 2.0}), QUIET, redo=True)
    assert [name for name in names if store.is_done(name)] == ["shots", "clips"]


def test_files_of_a_stage_are_discarded_with_it(make):
    store = finish(make(), "shots", "pairs", "report")
    kept = [store.directory / name for name in ("synthetic/x", "answers.jsonl")]
    gone = [store.directory / name for name in ("frames/x", "held_out_pairs.jsonl", "report.html")]
    for path in (*kept, *gone):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    with pytest.raises(ValueError, match="no video in"):
        run_stages(make(frames={"fps": 2.0}), QUIET, redo=True)
    assert [path.exists() for path in (*kept, *gone)] == [True] * 2 + [False] * 3


def test_rows_that_another_version_made_are_named_in_one_line(make):
    context = make()
    store = finish(context, "videos")
    old = {"tempo": "0.0.1", "transformers": "4.0"}
    store.finish("videos", fingerprints(context.config)["videos"], old)
    console = Console(file=io.StringIO(), width=300)
    run_stages(context, console, until="videos")
    assert "made with tempo 0.0.1 and transformers 4.0: videos; this run continues with tempo " in (
        console.file.getvalue()
    )


def test_the_environment_of_the_start_is_kept_and_another_one_is_added(make):
    context = make()
    finish(context, "videos")
    path = context.directory / "environment.json"
    run_stages(context, QUIET, until="videos")
    now = json.loads(path.read_text())
    before = {**now, "python": "3.0"}
    for _ in range(2):
        path.write_text(json.dumps(before))
        for _ in range(2):
            run_stages(context, QUIET, until="videos")
        assert json.loads(path.read_text()) == {**before, "resumed": [now]}


def test_a_source_that_is_not_a_run_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match=r"films is not a run directory"):
        run(make().config, tmp_path / "run", from_run=tmp_path / "films")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_taking_over_resumes_after_a_kill_and_copies_where_links_are_impossible(make, monkeypatch, failure):
    context = make()
    source = finish(context, "videos", "shots")
    source.append("shots", [Shots(id="a", path="a.mp4", num_frames=1, duration_seconds=1.0, shots=())])
    skipped = [Skipped(id=name, stage=stage, reason="x") for name, stage in (("b", "shots"), ("c", "clips"))]
    source.append(SKIPPED, skipped)
    names = [f"frames/{name}" for name in ("a.safetensors", "deep/b.safetensors")]
    for name in names:
        (source.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (source.directory / name).write_text(name)
    new = Context(context.config, context.directory.with_name("new"))
    links = itertools.count()

    def link(*_):
        if next(links) == 1 or failure is OSError:
            raise failure

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(os, "link", link)
        run_stages(new, QUIET, until="shots", source=source.directory)
    store = RunStore(new.directory)
    assert store.is_done("shots") is (failure is OSError)
    run_stages(new, QUIET, until="shots", source=source.directory)
    assert store.is_done("shots")
    assert [(new.directory / name).read_text() for name in names] == names
    assert store.read("shots", Shots) == source.read("shots", Shots)
    assert [row.id for row in store.read(SKIPPED, Skipped)] == ["b"], "not those of later stages"
