"""What the tests of both engines look at."""

import threading
import time
from pathlib import Path

#: Longest wait for what another process is about to do.
PATIENCE_SECONDS = 60


def by_id(results):
    """Everything that came, each id once."""
    flat = [record for result in results for record in result]
    assert len({record.id for record in flat}) == len(flat), "a record came twice"
    return {record.id: record for record in flat}


def until(condition):
    """Waits for something that another process or thread is about to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        # Gone before the file was opened, or while it was read.
        return False
