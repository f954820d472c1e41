"""Hashes of texts, files and checkpoints; seeds and held-out videos, which are derived from hashes."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from tempo.core.records import file_of

#: The files of a checkpoint that affect its outputs. Others, such as the model card, are ignored.
CHECKPOINT_FILES = ("*config.json", "tokenizer*", "chat_template*", "*.safetensors", "*.bin")

#: In a checkpoint file larger than `WHOLE_BYTES`, only `NUM_BLOCKS` evenly spaced blocks are hashed. That is
#: enough to distinguish checkpoints, because training changes weights everywhere.
WHOLE_BYTES, NUM_BLOCKS, BLOCK_BYTES = 64 << 20, 64, 64 << 10


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the purpose given by `names`.

    It depends neither on the order of work nor on the number of workers.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def held_out_draw(video_id: str, *, seed: int) -> float:
    """A number from 0 to 1 for the file of a video, which is held out if it is below the share.

    It depends only on the content of the file, so a new video does not move others.
    """
    return derive_seed(seed, file_of(video_id), "held out") / 2**63


def held_out_files(video_ids: Iterable[str], share: float, *, seed: int) -> set[str]:
    """The files of these videos that are held out: about `share` of them.

    Of two or more files, at least one is held out and at least one is not; a single file is not held out.
    """
    draws = sorted((held_out_draw(name, seed=seed), name) for name in {*map(file_of, video_ids)})
    count = min(max(1, sum(draw < share for draw, _ in draws)), len(draws) - 1)
    return {name for _, name in draws[:count]} if share and draws else set()


def hash_text(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def hash_checkpoint(directory: Path) -> str:
    """16 hex digits: a hash of the weights, configuration and tokenizer in a checkpoint directory.

    Large files are sampled (`WHOLE_BYTES`), and a file is read again only if its size or modification time
    has changed.
    """
    lines = []
    for path in sorted({path for pattern in CHECKPOINT_FILES for path in directory.glob(pattern)}):
        facts = path.stat()
        lines.append(f"{path.name} {_hash_blocks(path, facts.st_size, facts.st_mtime_ns, WHOLE_BYTES)}\n")
    return hash_text("".join(lines))


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
