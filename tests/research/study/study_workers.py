"""What the jobs of test_schedule.py do, in the processes of the pool."""

import os
import time


def note(job):
    """Leaves the job's mark with its times."""
    began = time.time()
    time.sleep(0.3)
    job.done.parent.mkdir(parents=True, exist_ok=True)
    job.done.write_text(f"{began} {time.time()}")


def fail(job):
    """The second job fails."""
    if "b" in job.key:
        raise ValueError("no such luck")
    note(job)


def die(job):
    """The second job takes its process with it."""
    if "b" in job.key:
        os._exit(1)
    note(job)
