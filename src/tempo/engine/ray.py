"""Runs a stage in Ray actors, each with one worker, on this machine or on a cluster.

Ray Data's `map_batches` is not used: it repeats a batch that kills its actor forever or, with a limit, also
loses batches that wait for the same actor. `ray.util.ActorPool` does not report which batch failed.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempo.config import Config, RunConfig
from tempo.engine.types import Batch, Context, ProcessDied, Result, Worker, count_workers, load, share

#: Records are small. Ray would take a third of the memory.
OBJECT_STORE_BYTES = 100 * 2**20
#: A warning is logged after so long without any result: the cluster may have no free CPU or GPU.
WARNING_SECONDS = 600.0

logger = logging.getLogger(__name__)


def connect(run: RunConfig) -> None:
    """Joins the cluster at `run.ray_address`, or starts Ray on this machine, unless Ray is connected already.

    Ray disconnects, and stops what it started, when this process ends. Raises ValueError if there is no such
    cluster.
    """
    # Ray reads these when it is imported. The second one keeps a Ray of this machine on loopback.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not run.ray_address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not run.ray_address:
        options |= {"num_cpus": count_workers(run.num_workers), "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE_BYTES}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _check_reachable(run.ray_address)
    # Without "local" Ray would join a cluster that RAY_ADDRESS or an earlier `ray start` names.
    ray.init(run.ray_address or "local", **options)
    # Ray's handler would end the process without the message on how to resume.
    signal.signal(signal.SIGTERM, on_sigterm)


def _check_reachable(address: str) -> None:
    """Raises ValueError if nothing listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ValueError(
            f"run.ray_address {address!r}: no Ray cluster answers ({error}). Check the address"
        ) from None


def run_actors(
    reference: str, context: Context, batches: Sequence[Batch], *, holds_model: bool, stage: str
) -> Iterator[Result]:
    """Results of the batches, in the order in which they are ready, as from `pool.run_pool`.

    Workers that hold a model get a GPU each; without any GPU there is a single one.
    """
    if not batches:
        return
    connect(context.config.run)
    import ray

    num_actors, num_gpus = plan_actors(context.config, holds_model=holds_model)
    home = Path.cwd(), tuple(sys.path), os.environ.get("OMP_NUM_THREADS")
    context = replace(context, directory=context.directory.absolute())
    make_worker = functools.partial(_make_worker, reference, context, *home)
    options = {"num_cpus": 1, "num_gpus": num_gpus}
    processes = [
        _RayProcess(lambda: ray.remote(**options)(_Actor).remote(make_worker))
        for _ in range(min(num_actors, len(batches)))
    ]
    try:
        yield from share(processes, batches, wait=_wait, reference=reference, stage=stage)
    finally:
        for process in processes:
            process.stop()


def plan_actors(config: Config, *, holds_model: bool) -> tuple[int, int]:
    """The number of actors and the GPUs of each; raises ValueError for a GPU with a number."""
    import ray

    resources = ray.cluster_resources()
    cores, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    if not holds_model:
        return max(1, min(config.run.num_workers or cores, cores)), 0
    device = config.model.device
    if device.startswith("cuda:"):
        raise ValueError(f"model.device {device!r}: Ray assigns the GPUs. Use 'auto' or 'cuda'")
    return (gpus, 1) if gpus and device in ("auto", "cuda") else (1, 0)


def _wait(calls: list[Any]) -> list[Any]:
    import ray

    while not (done := ray.wait(calls, timeout=WARNING_SECONDS)[0]):
        logger.warning(
            "no result from Ray for %g s; does `ray status` show actors that wait?", WARNING_SECONDS
        )
    return done  # type: ignore[no-any-return]


class _RayProcess:
    """A process of the cluster, which `make` starts; a call is Ray's reference to the result."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._actor: Any = None

    def submit(self, batch: Batch) -> Any:
        """See `types.Process`."""
        self._actor = self._actor or self._make()
        return self._actor.work.remote(batch)

    def result(self, call: Any) -> Result:
        """See `types.Process`."""
        import ray

        try:
            result: Result = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from error
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError,
        ):
            self.stop()
            raise ProcessDied from None
        return result

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


class _Actor:
    """A process with a worker."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def work(self, batch: Batch) -> Result:
        """The worker's results; the first call makes the worker."""
        self._worker = self._worker or self._make_worker()
        return self._worker(batch) if batch else ()


def _make_worker(
    reference: str, context: Context, directory: Path, path: Sequence[str], threads: str | None
) -> Worker:
    """Makes a worker in an actor, after giving it directory, import path and threads of a pool's process.

    Relative paths would lead elsewhere, and a model's sums change with the number of threads. Raises
    ValueError if this machine lacks a directory.
    """
    for needed in (directory, context.directory):
        if not needed.is_dir():
            raise ValueError(
                f"{needed} is not on {os.uname().nodename}, a machine of the Ray cluster. All of them need "
                "it under the same path"
            )
    os.chdir(directory)
    sys.path += [entry for entry in path if entry not in sys.path]
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.update({} if threads is None else {"OMP_NUM_THREADS": threads})
    return load(reference)(context)  # type: ignore[no-any-return]
