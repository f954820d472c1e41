"""What jobs do in test_run.py, in the processes of the pool."""

import os
import time

from tempo.core.files import write_text


def note(job):
    """Writes the job's file with the times of its beginning and end."""
    start = time.time()
    time.sleep(0.3)
    write_text(job.done, f"{start} {time.time()}")


def fail(job):
    """Fails in the job "b"."""
    if job.key == "b":
        raise ValueError("out of luck")
    note(job)


def die(job):
    """Ends the process in the job "b"."""
    if job.key == "b":
        os._exit(1)
    note(job)
