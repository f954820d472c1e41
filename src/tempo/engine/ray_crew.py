"""The Ray actors of one stage: each has the stage's worker, and one batch in hand at a time."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tempo.engine.pool import Batch, NoWorkerError, Result, load
from tempo.engine.types import Context, Worker

#: An actor that does not come within this time is worth a word.
TELL_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A batch, and whether a process died over it already."""

    batch: Batch
    is_suspect: bool = False


@dataclass(frozen=True)
class _Home:
    """What a pool's process has from this one, while Ray chooses for its actors.

    In another directory names lead elsewhere; with other threads a model's sums come out in another order.
    """

    working_directory: Path
    path: tuple[str, ...]
    threads: str | None

    def enter(self) -> None:
        """Makes this process like that one."""
        os.chdir(self.working_directory)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        os.environ.pop("OMP_NUM_THREADS", None)
        os.environ |= {} if self.threads is None else {"OMP_NUM_THREADS": self.threads}


class Crew:
    """Actors of one stage: those whose worker is being made, and those that have a task in hand."""

    def __init__(self, reference: str, context: Context, num_gpus: int) -> None:
        import ray

        self._ray = ray
        self._make = ray.remote(num_cpus=1, num_gpus=num_gpus)(_Actor).remote
        context = replace(context, directory=context.directory.absolute())
        home = _Home(Path.cwd(), tuple(sys.path), os.environ.get("OMP_NUM_THREADS"))
        self._errand = (reference, context, home)
        self._coming: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, Task]] = {}
        self._needs = "GPU" if num_gpus else "CPU"
        self._has_lost_one = False
        self._has_told = False

    @property
    def is_busy(self) -> bool:
        """Whether a task is in hand."""
        return bool(self._busy)

    def hire(self) -> None:
        """Asks for one more actor; it comes when the cluster has room."""
        actor = self._make()
        self._coming[actor.prepare.remote(*self._errand)] = actor

    def give(self, actor: Any, task: Task) -> None:
        """Hands a task to an actor that has none."""
        self._busy[actor.work.remote(task.batch)] = actor, task

    def wait(self) -> tuple[Any, Task | None, Result | None]:
        """The next actor to be done, its task if it had one, and the result: None if it died.

        Raises what a worker raises, and NoWorkerError if two actors in a row die before they have one.
        """
        done = self._wait_for_one()
        actor, task = self._busy.get(done) or (self._coming[done], None)
        result = self._get(done)
        if task is None and result is None:
            self._replace(done)
            return self.wait()
        self._has_lost_one = False
        # Only now: until it has a result, an actor is among those that `dismiss` ends.
        for waited in (self._coming, self._busy):
            waited.pop(done, None)
        if result is None:
            self.release(actor)
        return actor, task, result

    def _wait_for_one(self) -> Any:
        """The next call that is over; says so once where no actor is at work for long."""
        waited = [*self._coming, *self._busy]
        while not (done := self._ray.wait(waited, timeout=TELL_SECONDS)[0]):
            if not self._busy and not self._has_told:
                self._has_told = True
                logger.warning(
                    "%s: no worker after %g s: waiting for a free %s of the Ray cluster, or for its model",
                    *(self._errand[0].partition(":")[0], TELL_SECONDS, self._needs),
                )
        return done[0]

    def _replace(self, lost: Any) -> None:
        """Hires one more for an actor that died without a worker; raises NoWorkerError the second time."""
        if self._has_lost_one:
            raise NoWorkerError(self._errand[0])
        self._has_lost_one = True
        del self._coming[lost]
        self.hire()

    def release(self, actor: Any) -> None:
        """Ends an actor; what it held is free for others."""
        self._ray.kill(actor)

    def dismiss(self) -> None:
        """Ends all of them, whatever they are doing."""
        for actor in (*self._coming.values(), *(actor for actor, _ in self._busy.values())):
            self.release(actor)

    def _get(self, done: Any) -> Result | None:
        errors = self._ray.exceptions
        try:
            result: Result = self._ray.get(done)
        except errors.RayTaskError as error:
            raise error.cause or error from error
        except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError):
            return None
        return result


class _Actor:
    """A process on some machine with a stage's worker."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def prepare(self, reference: str, context: Context, home: _Home) -> Result:
        """Makes the worker, which has no results yet; raises ValueError if this machine lacks a directory."""
        for directory in (home.working_directory, context.directory):
            if not directory.is_dir():
                raise ValueError(f"{directory} is not on {os.uname().nodename}, a machine of the Ray cluster")
        home.enter()
        self._worker = load(reference)(context)
        return []

    def work(self, batch: Batch) -> Result:
        """The worker's results."""
        assert self._worker is not None
        return self._worker(batch)
