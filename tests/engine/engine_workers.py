"""Worker factories for the tests of the engine; processes of a pool import them by name."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from tempo.core.records import Captions, Skipped


def process_of(context):
    """Answers each record with the process that worked on it, and leaves a file of that name."""

    def work(batch):
        (context.directory / f"{os.getpid()}.pid").touch()
        return [Captions(id=record.id, captions=(str(os.getpid()),)) for record in batch]

    return work


def shout(context):
    """Answers `a` with `A`; drops ids that begin with `bad`."""

    def one(record):
        if record.id.startswith("bad"):
            return Skipped(id=record.id, stage="shout", reason="bad name")
        return Captions(id=record.id, captions=(record.id.upper(),))

    return lambda batch: [one(record) for record in batch]


def mortal(context):
    """As `shout`, but `exit` and `segfault` end the process, and `raise` raises."""
    shouting = shout(context)

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
        return shouting(batch)

    return work


def counted(context):
    """As `shout`; leaves a file each time that it is made."""
    number = len(list(context.directory.glob("made-*")))
    (context.directory / f"made-{number}-{os.getpid()}").touch()
    return shout(context)


def unmakeable(context):
    """A factory that fails, as one with a bad setting or a missing library does."""
    raise ValueError("the factory has nothing to work with")


def endless(context):
    """Says that it works, and never comes to an end."""

    def work(batch):
        (Path(context.directory) / f"{os.getpid()}.pid").touch()
        while True:
            os.read(os.pipe()[0], 1)

    return work


def stillborn(context):
    """A factory that ends its process, as a broken library does when it is imported."""
    os._exit(3)


def born_late(context):
    """As `shout`, but the first process that makes it dies of that."""
    try:
        (context.directory / "first").touch(exist_ok=False)
    except FileExistsError:
        return shout(context)
    os._exit(3)


def surroundings(context):
    """Answers with the working directory and the threads of the process."""
    seen = (os.getcwd(), str(os.environ.get("OMP_NUM_THREADS")))
    return lambda batch: [Captions(id=record.id, captions=seen) for record in batch]


def patient(context):
    """As `shout`, but `wait for x` returns only when `x` was answered; gives up after a minute."""
    shouting = shout(context)

    def work(batch):
        for record in batch:
            awaited = context.directory / record.id.removeprefix("wait for ")
            if record.id == awaited.name:
                awaited.touch()
            for _ in range(1200):
                if awaited.exists():
                    break
                time.sleep(0.05)
        return shouting(batch)

    return work
