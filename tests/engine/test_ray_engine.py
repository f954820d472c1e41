"""Stages on Ray: what the local engine gives, and its way with deaths; a run's own Ray ends with it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_checks import PATIENCE_SECONDS, by_id, is_alive, until

from tempo.config import Config, RunConfig
from tempo.core.records import Captions, Record, Skipped
from tempo.engine import pool as engine
from tempo.engine import ray as ray_engine
from tempo.engine.types import Context

# Not imported: what a run sets before the import would come too late.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")

RUN = RunConfig(engine="ray", num_workers=2)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this machine that all tests share and no run may end; its address."""
    ray_engine.connect(RUN)
    import ray

    yield ray.get_runtime_context().gcs_address
    assert ray.cluster_resources()["CPU"] == 2
    ray_engine.disconnect()
    assert not ray.is_initialized()


@pytest.fixture
def context(tmp_path, cluster):
    return Context(Config(run=RUN, videos={"paths": ["unused"]}), tmp_path)


def singles(*ids):
    return [[Record(id=name)] for name in ids]


def actors(name, context, batches, *, num_workers=2, holds_model=False):
    config = context.config.model_copy(update={"run": RUN.model_copy(update={"num_workers": num_workers})})
    return ray_engine.run_actors(
        f"engine_workers:{name}",
        Context(config, context.directory),
        batches,
        holds_model=holds_model,
        stage="captions",
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_actors_give_what_this_process_gives(context, num_workers):
    batches = singles(*(f"{'bad ' if i % 5 == 0 else ''}{i}" for i in range(13)))
    here = by_id(engine.run_here("engine_workers:shout", context, batches))
    assert by_id(actors("shout", context, batches, num_workers=num_workers)) == here


def test_batches_stay_together_and_a_model_is_loaded_once_where_there_is_no_gpu(context):
    batches = [[Record(id="a"), Record(id="b")], [Record(id="c")]]
    results = list(actors("counted", context, batches, holds_model=True))
    assert [[record.id for record in result] for result in results] == [["a", "b"], ["c"]]
    assert len(list(context.directory.glob("made-*"))) == 1


def test_nothing_is_made_for_no_work(context):
    assert list(actors("unmakeable", context, [])) == []


def test_actors_see_the_directory_and_threads_of_this_process(context, monkeypatch):
    monkeypatch.chdir(context.directory)
    for threads in ("3", None):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        (row,) = by_id(actors("surroundings", context, singles("a"))).values()
        assert row.captions == (str(context.directory), str(threads))


def test_ray_does_not_take_sigterm_from_the_run(cluster):
    """It would end the process, without a word of how to go on."""
    assert not str(getattr(signal.getsignal(signal.SIGTERM), "__module__", "")).startswith("ray.")


def test_slow_record_holds_up_no_other(context):
    """The rest comes while one worker is still at the slow record, which nothing ends but the rest."""
    results = actors("patient", context, singles("wait for 6", *map(str, range(7))))
    assert list(by_id(results)) == [*map(str, range(7)), "wait for 6"]


def test_record_that_kills_its_actor_is_dropped_and_all_others_come(context):
    death, names = "segfault", [f"r{i}" for i in range(6)]
    results = by_id(actors("mortal", context, singles(*names[:3], death, *names[3:])))
    assert set(results) == {death, *names}
    assert [type(results[name]) for name in names] == [Captions] * 6
    local = engine.run_pool("engine_workers:mortal", context, singles(death), num_workers=1, stage="captions")
    assert results[death] == by_id(local)[death]


def test_deadly_record_is_tried_twice_also_as_the_last_one(context):
    assert type(by_id(actors("mortal", context, singles("a", "exit"), num_workers=1))["exit"]) is Skipped
    assert (context.directory / "exit.begun").read_text() == "xx"
    assert (context.directory / "a.begun").read_text() == "x"


def test_worker_that_raises_ends_the_run_with_its_own_error(context):
    with pytest.raises(RuntimeError, match=r"^cannot work on raise$"):
        list(actors("mortal", context, singles("a", "raise", "b")))


def test_factory_that_raises_ends_the_run_with_its_own_error(context):
    with pytest.raises(ValueError, match=r"^the factory has nothing to work with$"):
        list(actors("unmakeable", context, singles("a", "b")))


def test_factory_that_kills_its_process_ends_the_run_and_no_record_pays_for_it(context):
    with pytest.raises(
        engine.NoWorkerError, match="died twice while engine_workers:stillborn was being made"
    ):
        list(actors("stillborn", context, singles("a", "b")))


def test_factory_that_kills_its_process_once_is_tried_again(context):
    assert set(by_id(actors("born_late", context, singles("a", "b", "c"), num_workers=1))) == {"a", "b", "c"}


def test_run_directory_that_a_machine_lacks_is_named(context, tmp_path):
    elsewhere = Context(context.config, tmp_path / "not shared")
    with pytest.raises(ValueError, match=r"not shared is not on .*, a machine of the Ray cluster"):
        list(actors("shout", elsewhere, singles("a")))


def test_actors_that_are_left_early_end(context):
    results = actors("process_of", context, singles(*"abcd"))
    next(results)
    pids = [int(path.stem) for path in context.directory.glob("*.pid")]
    assert pids
    results.close()
    until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(
    ("asked", "device", "holds_model", "share"),
    [
        (0, "auto", False, (4, 0)),
        (3, "auto", False, (3, 0)),
        (9, "auto", False, (4, 0)),
        (3, "auto", True, (2, 1)),
        (3, "cuda", True, (2, 1)),
        (3, "cpu", True, (1, 0)),
    ],
)
def test_models_get_a_gpu_each_and_the_others_the_cores(
    context, monkeypatch, asked, device, holds_model, share
):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0, "memory": 1e9})
    config = Config(
        run=RunConfig(engine="ray", num_workers=asked), model={"device": device}, videos={"paths": ["x"]}
    )
    assert ray_engine.share_cluster(config, holds_model=holds_model) == share


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_gpu_that_the_cluster_lacks_or_chooses_itself_is_refused(context, device):
    model = context.config.model.model_copy(update={"device": device})
    asking = Context(context.config.model_copy(update={"model": model}), context.directory)
    with pytest.raises(ValueError, match=f"model.device '{device}'.*write 'auto'"):
        list(actors("shout", asking, singles("a"), holds_model=True))


SUFFIXES = (".jsonl", ".jpg", ".safetensors", ".bin", ".mp4")

CONFIG = """
[run]
num_workers = 2
[synthetic]
num_videos = 3
num_held_out = 1
min_shots = 4
max_shots = 6
[frames]
max_pixels = 4096
[captions]
max_new_tokens = 64
[responses]
max_new_tokens = 128
[[training.phases]]
name = "sft"
objective = "sft"
learning_rate = 1e-3
"""


def test_a_run_that_joins_the_cluster_ends_in_the_bytes_of_a_local_one(cluster, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "tempo", "run", "config.toml", "--until", "responses", "--out"]
    for more in (["local"], ["on_ray", "--engine", "ray", "--address", cluster]):
        subprocess.run(command + more, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=120)
    files = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.suffix in SUFFIXES}
        for out in (tmp_path / "local", tmp_path / "on_ray")
    ]
    assert {"shots.jsonl", "responses.jsonl"} < {str(path) for path in files[0]}
    assert files[0].keys() == files[1].keys()
    for path, content in files[1].items():
        assert content.replace(b"on_ray/", b"local/") == files[0][path], path


RUN_ENDLESS = """
import sys
from pathlib import Path
from tempo.engine import pool as engine
from tempo.config import Config
from tempo.core.records import Record
from tempo.engine.types import Context

sys.path.insert(0, sys.argv[2])
run = {"engine": "ray", "num_workers": 2}
context = Context(Config.model_validate({"run": run, "videos": {"paths": ["unused"]}}), Path(sys.argv[1]))
batches = [[Record(id=str(i))] for i in range(4)]
with engine.session(context.config.run):
    list(engine.map_batches("engine_workers:endless", context, batches, place="pool", stage="captions"))
"""


def children(pid):
    """A process's children and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        found += [int(path.parent.name)] if parent == pid else []
    return found + [grandchild for child in found for grandchild in children(child)]


def addresses(pids):
    """Where processes listen, as /proc/net tells: the hexadecimal address of each socket."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_ray_of_the_runs_own_listens_on_loopback_and_ends_with_it(tmp_path, how):
    """Ctrl-C reaches every process of the terminal; SIGKILL the run alone."""
    script = tmp_path / "run_endless.py"
    script.write_text(RUN_ENDLESS)
    command = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)]
    run = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Tests that a shell started in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pids = []
    try:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2 or run.poll() is not None)
        pids = children(run.pid)
        assert {int(path.stem) for path in tmp_path.glob("*.pid")} <= set(pids)
        assert addresses(pids) <= {"0100007F", "0000000000000000FFFF00000100007F"}
        start = time.monotonic()
        os.killpg(run.pid, how) if how == signal.SIGINT else run.kill()
        run.wait(PATIENCE_SECONDS)
        # After SIGKILL two agents of Ray's take their time to see that they are alone.
        ending = pids if how == signal.SIGINT else [int(path.stem) for path in tmp_path.glob("*.pid")]
        until(lambda: not any(map(is_alive, ending)))
        assert time.monotonic() - start < 15
    finally:
        run.kill()
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


def test_address_where_nothing_is_is_refused_by_name(tmp_path):
    code = "import sys; from tempo.engine import ray as r; from tempo.config import RunConfig as C\n"
    code += "try: r.connect(C(engine='ray', ray_address='127.0.0.1:9'))\n"
    code += "except ValueError as error: sys.exit(0 if '127.0.0.1:9' in str(error) else 'other words')"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
