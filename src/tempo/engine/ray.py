"""Where a stage runs with `run.engine = "ray"`: a worker in each of some Ray actors, here or on a cluster.

An actor is given work once it says that its worker is made, and one batch at a time: neither a slow video nor
a full cluster holds up the others. One that dies is replaced; what it had in hand is tried once more.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence

from tempo.config import Config, RunConfig
from tempo.engine.pool import Batch, Result, count_workers, skip_batch
from tempo.engine.ray_crew import Crew, Task
from tempo.engine.types import Context

#: Rows are small: Ray's own choice would be a third of the memory.
OBJECT_STORE_BYTES = 100 * 2**20

_connected = False


def connect(run: RunConfig) -> None:
    """Joins the cluster at `run.ray_address`, or starts a Ray for this run; one joined before stays.

    Raises ValueError if there is no such cluster.
    """
    global _connected
    # Before the import, which reads them. The second is what keeps a Ray of this machine on loopback.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not run.ray_address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    alone = {
        "num_cpus": count_workers(run.num_workers),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _knock(run.ray_address)
        # "local": with no address Ray would join what RAY_ADDRESS or an earlier `ray start` left.
        ray.init(run.ray_address or "local", **quiet, **({} if run.ray_address else alone))
    except OSError as error:
        if not run.ray_address:
            raise
        raise ValueError(f"run.ray_address {run.ray_address!r}: no Ray cluster answers: {error}") from None
    # Ray ends the process without a word.
    signal.signal(signal.SIGTERM, on_sigterm)
    _connected = True


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=10).close()


def disconnect() -> None:
    """Leaves the cluster that `connect` joined, and ends the Ray that it started."""
    global _connected
    if _connected:
        import ray

        ray.shutdown()
        _connected = False


def run_actors(
    reference: str, context: Context, batches: Sequence[Batch], *, holds_model: bool, stage: str
) -> Iterator[Result]:
    """Results of the batches as they come. A batch whose actor dies twice gives a drop for each record.

    Workers that hold a model get a GPU each, or are a single one where there is none.
    """
    if not batches:
        return
    connect(context.config.run)
    num_actors, num_gpus = share_cluster(context.config, holds_model=holds_model)
    crew = Crew(reference, context, num_gpus)
    try:
        for _ in range(min(num_actors, len(batches))):
            crew.hire()
        yield from _drain(crew, deque(Task(batch) for batch in batches), stage)
    finally:
        crew.dismiss()


def share_cluster(config: Config, *, holds_model: bool) -> tuple[int, int]:
    """How many actors there are to be, and how many GPUs each of them takes."""
    import ray

    resources = ray.cluster_resources()
    cores, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    if not holds_model:
        return max(1, min(config.run.num_workers or cores, cores)), 0
    device = config.model.device
    if device.startswith("cuda") and (device != "cuda" or not gpus):
        raise ValueError(
            f"model.device {device!r}: Ray chooses among the {gpus} GPUs that it has; write 'auto' or 'cuda'"
        )
    return (gpus, 1) if gpus and device in ("auto", "cuda") else (1, 0)


def _drain(crew: Crew, left: deque[Task], stage: str) -> Iterator[Result]:
    """Works through `left`, and puts back what an actor died over for the first time."""
    while left or crew.is_busy:
        actor, task, result = crew.wait()
        if task is not None and result is None:
            if not task.is_suspect:
                left.appendleft(Task(task.batch, is_suspect=True))
            if left:
                crew.hire()
        elif left:
            # Before the result goes out: the actor works while it is written down.
            crew.give(actor, left.popleft())
        else:
            crew.release(actor)
        if task is not None and (result is not None or task.is_suspect):
            yield skip_batch(task.batch, stage) if result is None else result
