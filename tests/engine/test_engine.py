"""Stages run in this process or in a pool: the same results, and no death that others wait for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import engine_workers
import pytest
from engine_checks import PATIENCE_SECONDS, by_id, is_alive, until

from tempo.config import Config, RunConfig
from tempo.core.records import Captions, Record, Skipped
from tempo.engine import pool as engine
from tempo.engine.types import Context


@pytest.fixture
def context(tmp_path):
    return Context(Config.model_validate({"videos": {"paths": ["unused"]}}), tmp_path)


def singles(*ids):
    return [[Record(id=name)] for name in ids]


def pool(name, context, batches, num_workers=1):
    return engine.run_pool(
        f"engine_workers:{name}", context, batches, num_workers=num_workers, stage="captions"
    )


def test_workers_asked_for_are_counted_and_zero_is_one_per_usable_core():
    assert engine.count_workers(3) == 3
    assert engine.count_workers(0) == len(os.sched_getaffinity(0))


def test_reference_names_a_function():
    assert engine.load("engine_workers:shout") is engine_workers.shout


def on_ray(context, monkeypatch):
    """The context with `run.engine` ray, and a list of what would have gone there."""
    sent = []
    monkeypatch.setattr("tempo.engine.ray.run_actors", lambda *_, **how: sent.append(how) or iter(()))
    run = context.config.run.model_copy(update={"engine": "ray"})
    return Context(context.config.model_copy(update={"run": run}), context.directory), sent


def test_without_ray_it_is_refused_by_the_name_of_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    engine.check_engine(RunConfig())
    with pytest.raises(ValueError, match=r"run\.engine 'ray' needs Ray: pip install '\.\[ray\]'"):
        engine.check_engine(RunConfig(engine="ray"))


@pytest.mark.parametrize("place", ["here", "model"])
def test_local_engine_keeps_a_model_in_this_process(context, place):
    work = {"place": place, "stage": "captions"}
    (row,) = by_id(engine.map_batches("engine_workers:process_of", context, singles("a"), **work)).values()
    assert row.captions == (str(os.getpid()),)


def test_ray_takes_the_stages_of_a_pool_or_a_model_and_no_other(context, monkeypatch):
    context, sent = on_ray(context, monkeypatch)
    for place in ("pool", "model", "here"):
        work = {"place": place, "stage": "captions"}
        came = by_id(engine.map_batches("engine_workers:shout", context, singles("a"), **work))
        assert bool(came) == (place == "here")
    assert sent == [{"holds_model": holds, "stage": "captions"} for holds in (False, True)]


def test_run_here_keeps_the_order_of_batches_and_loads_once(context):
    batches = [[Record(id="a"), Record(id="bad b")], [Record(id="c")]]
    results = list(engine.run_here("engine_workers:counted", context, batches))
    assert [[record.id for record in result] for result in results] == [["a", "bad b"], ["c"]]
    assert [type(record) for record in results[0]] == [Captions, Skipped]
    assert len(list(context.directory.glob("made-*"))) == 1


def test_run_here_loads_nothing_for_no_work(context):
    assert list(engine.run_here("no_such_module:worker", context, [])) == []


def test_run_here_works_on_a_batch_only_when_it_is_asked_for(context):
    results = engine.run_here("engine_workers:mortal", context, singles("a", "b"))
    next(results)
    assert [path.name for path in context.directory.iterdir()] == ["a.begun"]


def test_run_pool_starts_nothing_for_no_work(context):
    assert list(pool("unmakeable", context, [])) == []
    assert multiprocessing.active_children() == []


def test_pool_gives_what_this_process_gives_whatever_the_number_of_workers(context):
    batches = singles(*(f"{'bad ' if i % 5 == 0 else ''}{i}" for i in range(13)))
    here = by_id(engine.run_here("engine_workers:shout", context, batches))
    assert len(here) == 13
    for num_workers in (1, 3):
        assert by_id(pool("shout", context, batches, num_workers)) == here


def test_pool_works_in_processes_that_end_with_it(context):
    workers = {
        int(r.captions[0]) for r in by_id(pool("process_of", context, singles("a", "b", "c"))).values()
    }
    assert os.getpid() not in workers
    until(lambda: not any(is_alive(pid) for pid in workers))


def test_pool_of_batches_keeps_each_batch_together(context):
    batches = [[Record(id="a"), Record(id="b")], [Record(id="c")]]
    results = pool("shout", context, batches)
    assert sorted([record.id for record in result] for result in results) == [["a", "b"], ["c"]]


def test_worker_that_raises_ends_the_run_with_its_error_and_leaves_no_process(context):
    with pytest.raises(RuntimeError, match="cannot work on raise"):
        list(pool("mortal", context, singles("a", "raise", "b")))
    until(lambda: not multiprocessing.active_children())


def test_factory_that_raises_ends_the_run_with_its_error(context):
    """It is no fault of the records: none may be set aside for it."""
    with pytest.raises(ValueError, match="nothing to work with"):
        list(pool("unmakeable", context, singles("a", "b")))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_factory_that_kills_its_process_ends_the_run_and_no_record_pays_for_it(context, num_workers):
    come = []
    with pytest.raises(
        engine.NoWorkerError, match="died twice while engine_workers:stillborn was being made"
    ):
        come += pool("stillborn", context, singles("a", "b", "c"), num_workers)
    assert come == []
    until(lambda: not multiprocessing.active_children())


@pytest.mark.parametrize("num_workers", [1, 2])
def test_factory_that_kills_its_process_once_is_tried_again_and_no_record_is_lost(context, num_workers):
    results = by_id(pool("born_late", context, singles("a", "b", "bad c", "d"), num_workers))
    assert {name: type(row) for name, row in results.items()} == {
        "a": Captions, "b": Captions, "bad c": Skipped, "d": Captions
    }  # fmt: skip
    assert results["bad c"].reason == "bad name"


@pytest.mark.parametrize("death", ["exit", "segfault"])
def test_record_that_kills_its_process_is_dropped_and_all_others_come(context, death):
    names = [f"r{i}" for i in range(6)]
    results = by_id(pool("mortal", context, singles(*names[:3], death, *names[3:]), 2))
    assert set(results) == {death, *names}
    assert [type(results[name]) for name in names] == [Captions] * 6
    assert results[death] == Skipped(
        id=death, stage="captions", reason="process died", detail=results[death].detail
    )


def test_two_deadly_records_are_both_found(context):
    results = by_id(pool("mortal", context, singles("exit 1", "exit 2", "a", "b")))
    assert {name: type(result) for name, result in results.items()} == {
        "exit 1": Skipped,
        "exit 2": Skipped,
        "a": Captions,
        "b": Captions,
    }


def test_deadly_record_is_tried_twice_and_never_again(context):
    list(pool("mortal", context, singles("exit", "a", "b")))
    assert (context.directory / "exit.begun").read_text() == "xx"


def test_process_that_dies_while_a_result_is_being_stored_loses_no_record(context):
    """The pool may break while results are written down: what is handed in next must not be lost."""
    results = pool("mortal", context, singles("a", "exit", "b", "c"))
    come = [next(results)]
    for thread in threading.enumerate():
        if type(thread).__name__ == "_ExecutorManagerThread":
            thread.join(PATIENCE_SECONDS)
    come += results
    assert set(by_id(come)) == {"a", "exit", "b", "c"}


def test_pool_that_is_left_early_leaves_no_process(context):
    results = pool("shout", context, singles("a", "b", "c", "d"))
    next(results)
    results.close()
    until(lambda: not multiprocessing.active_children())
    assert multiprocessing.active_children() == []


RUN_ENDLESS = """
import sys
from pathlib import Path
from tempo.engine import pool as engine
from tempo.config import Config
from tempo.core.records import Record
from tempo.engine.types import Context

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[2])
    context = Context(Config.model_validate({"videos": {"paths": ["unused"]}}), Path(sys.argv[1]))
    batches = [[Record(id=str(i))] for i in range(4)]
    list(engine.run_pool("engine_workers:endless", context, batches, num_workers=2, stage="captions"))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "run_endless.py"
    script.write_text(RUN_ENDLESS)
    command = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)]
    # What the resource tracker says of semaphores that the kill left behind is of no interest.
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    workers = []
    try:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or parent.poll() is not None)
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert len(workers) == 2
        assert all(is_alive(pid) for pid in workers)
        parent.kill()
        parent.wait()
        until(lambda: not any(is_alive(pid) for pid in workers))
    finally:
        parent.kill()
        parent.wait()
        for pid in filter(is_alive, workers):
            os.kill(pid, signal.SIGKILL)
