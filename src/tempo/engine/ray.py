"""Runs the workers of a stage in Ray actors, on this machine or on a cluster.

`ray.data` would either retry forever a batch that kills its actor, or lose other batches with it, and
`ray.util.ActorPool` does not report which batch failed.
"""

import logging
import os
import signal
import socket
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

from tempo.config import Config, RunConfig
from tempo.engine.types import Batch, Context, ProcessDied, Result, Worker, count_workers


def connect(run: RunConfig) -> None:
    """Connects to the cluster at `run.ray_address`, or starts Ray on this machine; once per process.

    Raises ValueError if no cluster answers at the address.
    """
    # Ray reads these variables on import. The second one restricts a local Ray to the loopback address.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not run.ray_address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not run.ray_address:
        # Records are small, but by default Ray reserves a third of the memory.
        local = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
        options |= {"num_cpus": count_workers(run.num_workers), **local}
    host, _, port = run.ray_address.rpartition(":")
    try:
        # Checked here because Ray itself would retry for minutes.
        if host:
            socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"run.ray_address {run.ray_address!r}: no Ray cluster answers there ({error}). "
            "Check the address, or start the cluster with `ray start --head`"
        ) from None
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # Without "local" Ray would connect to a cluster from RAY_ADDRESS or from an earlier `ray start`.
    ray.init(run.ray_address or "local", **options)
    # Ray's handler would end the process without the message about how to resume.
    signal.signal(signal.SIGTERM, on_sigterm)


def make_processes(reference: str, context: Context, *, holds_model: bool) -> list[Any]:
    """As many actors as the cluster has resources for."""
    connect(context.config.run)
    num_actors, num_gpus = plan_actors(context.config, holds_model=holds_model)
    arguments = reference, context, os.getcwd(), os.environ.get("OMP_NUM_THREADS")
    return [RayProcess(arguments, num_gpus) for _ in range(num_actors)]


def plan_actors(config: Config, *, holds_model: bool) -> tuple[int, int]:
    """The number of actors, and of GPUs per actor: one GPU per model, or a single model on the CPU."""
    import ray

    resources = ray.cluster_resources()
    cores, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    if not holds_model:
        return max(1, min(config.run.num_workers or cores, cores)), 0
    return (gpus, 1) if gpus and config.model.device != "cpu" else (1, 0)


class RayProcess:
    """A Ray actor with the methods of `pool._PoolProcess`. A call is represented by its object reference."""

    def __init__(self, arguments: tuple[Any, ...], num_gpus: int) -> None:
        import ray

        self._ray, self._arguments = ray, arguments
        self._actor: Any = None
        self._make_actor = ray.remote(num_cpus=1, num_gpus=num_gpus)(_Actor).remote

    def submit(self, batch: Batch) -> Any:
        if self._actor is None:
            self._actor = self._make_actor(*self._arguments)
        return self._actor.work.remote(batch)

    def wait(self, calls: list[Any]) -> Sequence[Any]:
        return self._ray.wait(calls)[0]  # type: ignore[no-any-return]

    def result(self, call: Any) -> Result:
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)  # type: ignore[no-any-return]
        except errors.RayTaskError as error:
            raise error.cause or error from error
        except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError):
            raise ProcessDied from None

    def stop(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None


class _Actor:
    """Holds a worker. Sets the run's working directory and its number of threads, which affects results."""

    def __init__(self, reference: str, context: Context, directory: str, threads: str | None) -> None:
        self._reference, self._context = reference, context
        self._directory, self._threads = directory, threads
        self._worker: Worker | None = None

    def work(self, batch: Batch) -> Result:
        if self._worker is None:
            os.chdir(self._directory)
            if not self._context.directory.is_dir():
                raise ValueError(
                    f"{self._context.directory} does not exist on the Ray machine {os.uname().nodename}. All "
                    "machines of the cluster need the run directory under the same path"
                )
            os.environ.pop("OMP_NUM_THREADS", None)
            os.environ.update({"OMP_NUM_THREADS": self._threads} if self._threads else {})
            self._worker = resolve_name(self._reference)(self._context)
        return self._worker(batch) if batch else ()
