"""Workers in this process, in a pool and on Ray give the same results; a dead process costs one record."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from engine_workers import PATIENCE_SECONDS, by_id, is_alive, until
from sample_material import SMALL_RUN, config_of, context_of

from tempo.config import RunConfig
from tempo.core.records import Captions, Record, Skipped
from tempo.engine import pool
from tempo.engine import ray as ray_engine
from tempo.engine.types import count_workers

RAY = pytest.param("ray", marks=pytest.mark.ray)


@pytest.fixture(params=["local", RAY])
def run(request, tmp_path):
    """A function that runs a worker of engine_workers over batches by one of the engines."""
    if request.param == "ray":
        request.getfixturevalue("cluster")

    def run_stage(name, batches, *, num_workers=1):
        context = context_of(tmp_path, run={"engine": request.param, "num_workers": num_workers})
        work = {"place": "pool", "stage": "captions"}
        return pool.map_batches(f"engine_workers:{name}", context, batches, **work)

    return run_stage


@pytest.fixture(scope="session")
def cluster():
    """A Ray of this machine that all tests share; its address."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        # Actors import engine_workers.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ray_engine.connect(RunConfig(engine="ray", num_workers=2))
    # Ray's own handler would end a run without the message on how to resume.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def context(tmp_path):
    return context_of(tmp_path)


def singles(*ids):
    return [[Record(id=name)] for name in ids]


def test_number_of_workers_is_the_given_one_or_the_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    assert (count_workers(3), count_workers(0)) == (3, 2)
    # macOS does not have it.
    monkeypatch.delattr(os, "sched_getaffinity")
    assert count_workers(0) == os.cpu_count()


def test_missing_ray_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pool.check_engine(RunConfig())
    with pytest.raises(ValueError, match=r"run\.engine 'ray' needs Ray\. Install it with: pip install ray"):
        pool.check_engine(RunConfig(engine="ray"))


@pytest.mark.parametrize(
    ("place", "threads", "is_here"), [("here", 1, True), ("model", 2, True), ("model", 1, False)]
)
def test_processes_with_a_model_share_the_cores(context, monkeypatch, place, threads, is_here):
    monkeypatch.setattr(pool, "count_workers", lambda asked: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    batches = singles("a", "b", "c", "d")
    found = by_id(pool.map_batches("engine_workers:process", context, batches, place=place, stage="captions"))
    assert (str(os.getpid()) in {row.captions[0] for row in found.values()}) == is_here


@pytest.mark.parametrize(("started", "expected"), [("1", 6), ("2", 3)])
def test_a_stage_of_one_process_uses_the_cores_of_all(context, monkeypatch, started, expected):
    monkeypatch.setattr(pool, "count_workers", lambda asked: 6)
    monkeypatch.setenv("WORLD_SIZE", started)
    before = torch.get_num_threads()
    with contextlib.suppress(KeyError), pool.all_cores(context.config):
        assert torch.get_num_threads() == expected
        raise KeyError
    assert torch.get_num_threads() == before == 1


def here(worker, context, batches):
    return pool.map_batches(f"engine_workers:{worker}", context, batches, place="here", stage="captions")


def test_this_process_keeps_the_order_and_computes_results_on_demand(context):
    results = here("mortal", context, [[Record(id="a"), Record(id="bad b")], [Record(id="c")]])
    assert [type(record) for record in next(results)] == [Captions, Skipped]
    assert not (context.directory / "c.begun").exists()
    assert [record.id for record in next(results)] == ["c"]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_are_those_of_this_process(run, context, num_workers):
    batches = singles(*(f"{'bad ' if i % 5 == 0 else ''}{i}" for i in range(13)))
    expected = by_id(here("shout", context, batches))
    assert len(expected) == 13
    assert by_id(run("shout", batches, num_workers=num_workers)) == expected


@pytest.mark.parametrize("threads", ["3", None])
def test_processes_have_the_directory_and_threads_of_this_one_and_end_with_the_stage(
    run, tmp_path, monkeypatch, threads
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    (row,) = by_id(run("process", singles("a"))).values()
    assert row.captions[1:] == (str(tmp_path), str(threads))
    assert int(row.captions[0]) != os.getpid()
    until(lambda: not is_alive(int(row.captions[0])))


def test_a_slow_record_does_not_delay_the_others(run):
    """The slow record waits for the last of the others."""
    results = run("patient", singles("wait for 6", *map(str, range(7))), num_workers=2)
    assert list(by_id(results)) == [*map(str, range(7)), "wait for 6"]


def test_exception_of_a_worker_ends_the_run(run):
    with pytest.raises(RuntimeError, match=r"^cannot work on raise$"):
        list(run("mortal", singles("a", "raise", "b")))
    until(lambda: not multiprocessing.active_children())


def test_exception_of_a_factory_ends_the_run_and_skips_no_record(run):
    with pytest.raises(ValueError, match=r"^the factory has no model$"):
        list(run("raising", singles("a", "b")))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_factory_that_kills_its_process_ends_the_run_and_skips_no_record(run, num_workers):
    results = []
    with pytest.raises(ValueError, match="captions: processes die at startup"):
        results += run("dying", singles("a", "b", "c"), num_workers=num_workers)
    assert results == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_factory_that_dies_once_costs_a_restart_and_no_record(run, num_workers, tmp_path):
    results = by_id(run("dying_once", singles("a", "b", "c"), num_workers=num_workers))
    assert {name: type(result) for name, result in results.items()} == dict.fromkeys("abc", Captions)
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("death", ["exit", "segfault"])
def test_record_that_kills_its_process_is_skipped_and_all_others_come(run, death, tmp_path):
    names = [f"r{i}" for i in range(6)]
    results = by_id(run("mortal", singles(*names[:3], death, *names[3:]), num_workers=2))
    assert results.pop(death) == Skipped(id=death, stage="captions", reason="process died")
    assert {name: type(result) for name, result in results.items()} == dict.fromkeys(names, Captions)
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.begun")} == {
        **dict.fromkeys(names, "x"), death: "xx"
    }  # fmt: skip


RUN_ENDLESS = """
import sys
from pathlib import Path
from tempo.config import Config
from tempo.core.records import Record
from tempo.engine import pool
from tempo.engine.types import Context

if __name__ == "__main__":
    run = {"engine": sys.argv[2], "num_workers": 2}
    context = Context(Config.model_validate({"run": run, "videos": {"paths": ["unused"]}}), Path(sys.argv[1]))
    batches = [[Record(id=str(i))] for i in range(4)]
    list(pool.map_batches("engine_workers:endless", context, batches, place="pool", stage="captions"))
"""


@pytest.mark.parametrize("engine", ["local", RAY])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_run_by_ctrl_c_or_kill(tmp_path, engine, how):
    """Ctrl-C reaches all processes of the terminal, SIGKILL only the run. Ray listens on loopback."""
    script = tmp_path / "run_endless.py"
    script.write_text(RUN_ENDLESS)
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), engine],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell that started the tests in the background makes them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pids = []
    try:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or run.poll() is not None)
        processes = psutil.Process(run.pid).children(recursive=True)
        pids, workers = [one.pid for one in processes], [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert len(workers) == 2
        assert set(workers) <= set(pids)
        sockets = [socket for one in processes for socket in one.net_connections()]
        listening = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
        os.killpg(run.pid, how) if how == signal.SIGINT else run.kill()
        run.wait(PATIENCE_SECONDS)
        # After SIGKILL two agents of Ray's take their time.
        until(lambda: not any(map(is_alive, pids if how == signal.SIGINT else workers)))
    finally:
        run.kill()
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("asked", "device", "holds_model", "plan"),
    [
        (0, "auto", False, (4, 0)),
        (3, "auto", False, (3, 0)),
        (9, "auto", False, (4, 0)),
        (3, "auto", True, (2, 1)),
        (3, "cpu", True, (1, 0)),
    ],
)
def test_models_get_a_gpu_each_and_other_workers_the_cores(
    cluster, monkeypatch, asked, device, holds_model, plan
):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0, "memory": 1e9})
    config = config_of(run={"engine": "ray", "num_workers": asked}, model={"device": device})
    assert ray_engine.plan_actors(config, holds_model=holds_model) == plan


@pytest.mark.ray
def test_run_directory_that_a_machine_lacks_is_named(cluster, tmp_path):
    context = context_of(tmp_path / "not shared", run={"engine": "ray"})
    work = {"place": "model", "stage": "captions"}
    with pytest.raises(ValueError, match=r"not shared does not exist on the Ray machine"):
        list(pool.map_batches("engine_workers:shout", context, singles("a"), **work))


@pytest.mark.ray
@pytest.mark.parametrize("port", [9, 70000])
def test_address_without_a_cluster_is_named(port):
    pytest.importorskip("ray")
    code = "import sys; from tempo.engine import ray as r; from tempo.config import RunConfig as C\n"
    code += f"try: r.connect(C(engine='ray', ray_address='127.0.0.1:{port}'))\n"
    code += f"except ValueError as error: sys.exit('127.0.0.1:{port}' not in str(error))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


@pytest.mark.ray
def test_run_on_a_cluster_writes_the_bytes_of_a_local_one(cluster, tmp_path):
    (tmp_path / "config.toml").write_text(SMALL_RUN)
    command = [sys.executable, "-m", "tempo", "run", "config.toml", "--until", "responses"]
    command += ["--set", "run.num_workers=2", "--set", "synthetic.num_videos=3", "--out"]
    for more in (["local"], ["on_ray", "--set", "run.engine=ray", "--set", f"run.ray_address={cluster}"]):
        subprocess.run(command + more, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=120)
    suffixes = (".jsonl", ".jpg", ".safetensors", ".bin", ".mp4")
    local, on_ray = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.suffix in suffixes}
        for out in (tmp_path / "local", tmp_path / "on_ray")
    )
    assert {"shots.jsonl", "responses.jsonl"} < {str(path) for path in local}
    assert {path: content.replace(b"on_ray/", b"local/") for path, content in on_ray.items()} == local
