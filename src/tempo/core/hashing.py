"""Hashes of texts, files and checkpoints, and the seeds that follow from them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

#: The files of a checkpoint that change its answers; its model card is not one of them.
CHECKPOINT_FILES = ("*config.json", "tokenizer*", "chat_template*", "*.safetensors", "*.bin")

#: Of a checkpoint file above `WHOLE_BYTES` only `NUM_BLOCKS` evenly spaced blocks are hashed. Training
#: changes weights everywhere, so that this is enough to tell checkpoints apart.
WHOLE_BYTES, NUM_BLOCKS, BLOCK_BYTES = 64 << 20, 64, 64 << 10


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose; neither the order of work nor the number of workers changes it."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def hash_text(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def hash_checkpoint(directory: Path) -> str:
    """16 hex digits that stand for the weights, configuration and tokenizer of a checkpoint directory.

    Large files are sampled (`WHOLE_BYTES`), and each file is read once per size and time of change.
    """
    found = sorted({path for pattern in CHECKPOINT_FILES for path in directory.glob(pattern)})
    sizes = [(path, path.stat()) for path in found]
    return hash_text(
        "".join(
            f"{path.name} {_hash_blocks(path, s.st_size, s.st_mtime_ns, WHOLE_BYTES)}\n" for path, s in sizes
        )
    )


@functools.lru_cache(maxsize=256)
def _hash_blocks(path: Path, size: int, mtime_ns: int, whole_bytes: int) -> str:
    if size <= whole_bytes:
        return hash_file(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(NUM_BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]
