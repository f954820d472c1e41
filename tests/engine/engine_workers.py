"""Worker factories for the tests of the engine, which other processes import by name, and small helpers."""

from __future__ import annotations

import ctypes
import os
import threading
import time

import psutil

from tempo.core.records import Captions, Skipped

#: Maximum wait for another process.
PATIENCE_SECONDS = 60


def by_id(results):
    """All records of all results by id, which must be unique."""
    flat = [record for result in results for record in result]
    assert len({record.id for record in flat}) == len(flat), "two results have the same id"
    return {record.id: record for record in flat}


def until(condition):
    """Waits until another process has made the condition true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened in {PATIENCE_SECONDS} seconds"
        threading.Event().wait(0.01)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def shout(context):
    """Answers `a` with `A`; skips ids that begin with `bad`."""

    def one(record):
        if record.id.startswith("bad"):
            return Skipped(id=record.id, stage="shout", reason="bad name")
        return Captions(id=record.id, captions=(record.id.upper(),))

    return lambda batch: [one(record) for record in batch]


def mortal(context):
    """As `shout`, but `exit` and `segfault` end the process, and `raise` raises. Counts attempts in files."""

    def work(batch):
        for record in batch:
            with (context.directory / f"{record.id}.begun").open("a") as file:
                file.write("x")
            if record.id.startswith("exit"):
                os._exit(3)
            if record.id.startswith("segfault"):
                ctypes.string_at(0)
            if record.id.startswith("raise"):
                raise RuntimeError(f"cannot work on {record.id}")
        return shout(context)(batch)

    return work


def raising(context):
    """A factory that raises, as one with a bad setting or a missing library does."""
    raise ValueError("the factory has no model")


def dying(context):
    """A factory that ends its process, as a broken library does when it is imported."""
    os._exit(3)


def dying_once(context):
    """A factory that ends the first process that calls it, as one that ran out of memory."""
    try:
        (context.directory / "died").touch(exist_ok=False)
    except FileExistsError:
        return shout(context)
    os._exit(3)


def process(context):
    """Answers with pid, directory and threads of the process; leaves a file named after the pid."""

    def work(batch):
        (context.directory / f"{os.getpid()}.pid").touch()
        seen = (str(os.getpid()), os.getcwd(), str(os.environ.get("OMP_NUM_THREADS")))
        return [Captions(id=record.id, captions=seen) for record in batch]

    return work


def endless(context):
    """Leaves a file named after its pid when it has a batch, and never ends."""

    def work(batch):
        (context.directory / f"{os.getpid()}.pid").touch()
        while True:
            os.read(os.pipe()[0], 1)

    return work


def patient(context):
    """As `shout`, but `wait for x` returns only when `x` has been answered."""

    def work(batch):
        for record in batch:
            awaited = context.directory / record.id.removeprefix("wait for ")
            if record.id == awaited.name:
                awaited.touch()
            until(awaited.exists)
        return shout(context)(batch)

    return work
