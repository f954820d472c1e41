"""Files and checkpoints that a configuration names, and whether their content is still the same."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from tempo.config import Config
from tempo.model.loading import resolve_model_path

#: Each belongs to the stage of its section.
KEYS = ("pairs.import_from", "training.instructions", "evaluation.benchmark")

#: What makes a checkpoint answer as it does; not its card.
PARTS = ("*config.json", "tokenizer*", "chat_template*", "*.safetensors", "*.bin")

#: Larger files of a checkpoint are not read whole: so many blocks of so many bytes, evenly spread. Training
#: changes the weights everywhere.
WHOLE_BYTES, NUM_BLOCKS, BLOCK_BYTES = 64 << 20, 64, 64 << 10


def named_files(config: Config) -> dict[str, Path]:
    """The files by their keys; those that are named alone."""
    named = {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in KEYS}
    return {key: Path(path) for key, path in named.items() if path}


def content_hashes(config: Config, stage: str) -> dict[str, str]:
    """A hash of the content of each file that `stage` reads, by its key; empty for one that is not there.

    Of checkpoints too, at the first stage that they count for; only of those in a directory, since that of a
    hub name lies elsewhere.
    """
    files = {key: _hash(path) for key, path in named_files(config).items() if key.split(".")[0] == stage}
    found = {key: path for key, path in _checkpoints(config, stage).items() if os.path.isdir(path)}
    return files | {key: _hash_checkpoint(Path(path)) for key, path in found.items()}


def _checkpoints(config: Config, stage: str) -> dict[str, str]:
    if stage == "captions":
        return {"model.path": resolve_model_path(config.model.path)}
    learned = stage == "clips" and config.clips.features != "embedded"
    return {"clips.features": config.clips.features} if learned else {}


def _hash_checkpoint(directory: Path) -> str:
    parts = {path for pattern in PARTS for path in directory.glob(pattern)}
    text = "".join(f"{path.name} {_hash(path, WHOLE_BYTES)}\n" for path in sorted(parts))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _hash(path: Path, whole_bytes: int | None = None) -> str:
    try:
        stat = path.stat()
        return _hash_state(path, stat.st_size, stat.st_mtime_ns, whole_bytes)
    except OSError:
        # It is said elsewhere, before any work; the state of a run can be told without the file.
        return ""


@functools.lru_cache(maxsize=256)
def _hash_state(path: Path, size: int, mtime_ns: int, whole_bytes: int | None) -> str:
    """Read once for each state of the file: fingerprints are asked for often."""
    with path.open("rb") as file:
        if whole_bytes is None or size <= whole_bytes:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        digest = hashlib.sha256(str(size).encode())
        for number in range(NUM_BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
        return digest.hexdigest()[:16]
