"""Files that a configuration names: where they are, and whether their content is still the same."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from tempo.config import Config

#: Each belongs to the stage of its section.
KEYS = ("pairs.import_from", "training.instructions", "evaluation.benchmark")


def named_files(config: Config) -> dict[str, Path]:
    """The files by their keys; those that are named alone."""
    named = {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in KEYS}
    return {key: Path(path) for key, path in named.items() if path}


def content_hashes(config: Config, stage: str) -> dict[str, str]:
    """A hash of the content of each file that `stage` reads, by its key; empty for one that is not there."""
    return {key: _hash(path) for key, path in named_files(config).items() if key.split(".")[0] == stage}


def _hash(path: Path) -> str:
    try:
        stat = path.stat()
        return _hash_state(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        # It is said elsewhere, before any work; the state of a run can be told without the file.
        return ""


@functools.lru_cache(maxsize=64)
def _hash_state(path: Path, size: int, mtime_ns: int) -> str:
    """Read once for each state of the file: fingerprints are asked for often."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
