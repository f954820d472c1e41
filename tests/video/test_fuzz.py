"""Damaged files, made from small ones by a seeded generator: each ends as clips or is skipped with a reason.

`TEMPO_FUZZ_FILES=3000 pytest tests/video/test_fuzz.py` (`make fuzz`) is the long form.
"""

import os
import resource
import threading

import numpy as np
from sample_material import context_of
from video_material import CONTAINERS, moving, video_of

from tempo.core.records import Skipped
from tempo.video import clips, shots

#: By default each damage to each container six or seven times.
NUM_FILES = int(os.environ.get("TEMPO_FUZZ_FILES", "300"))

#: What a process may grow by after the first third of the files.
MAX_GROWTH_MIB = 30


def flip_bits(data, rng):
    damaged = bytearray(data)
    for at in rng.integers(0, len(data), int(rng.integers(1, 200))):
        damaged[at] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def spoil_header(data, rng):
    damaged = bytearray(data)
    for at in rng.integers(0, min(2000, len(data)), int(rng.integers(1, 30))):
        damaged[at] = int(rng.integers(256))
    return bytes(damaged)


def piece(data, rng):
    """Start and end of a random part of the file."""
    return sorted(int(at) for at in rng.integers(1, len(data), 2))


def splice(data, end, start):
    return data[:end] + data[start:]


def zero(data, start, end):
    end = min(end, start + len(data) // 4)
    return data[:start] + bytes(end - start) + data[end:]


DAMAGES = (
    flip_bits,
    spoil_header,
    # An MP4 has its index at the end: sizes, times and offsets of frames.
    lambda data, rng: spoil_header(data[::-1], rng)[::-1],
    lambda data, rng: zero(data, *piece(data, rng)),
    lambda data, rng: data[: piece(data, rng)[0]],
    lambda data, rng: data[piece(data, rng)[0] :],
    # Without a piece, and with a piece twice.
    lambda data, rng: splice(data, *piece(data, rng)),
    lambda data, rng: splice(data, *reversed(piece(data, rng))),
    lambda data, rng: rng.bytes(int(rng.integers(1, 5000))),
)


def test_damaged_files_end_as_clips_or_are_skipped(render, tmp_path):
    images = [image for seed in range(4) for image in moving(seed, 20)]
    sources = [render(images, name, codec=codec).read_bytes() for name, codec in CONTAINERS]
    settings = context_of(tmp_path / "run", videos={"paths": ["unused"], "timeout_seconds": 60.0})
    workers = shots.make_worker(settings), clips.make_worker(settings)
    num_threads, num_open = threading.active_count(), len(os.listdir("/dev/fd"))
    outcomes, peaks = [], []
    for number in range(NUM_FILES):
        rng = np.random.default_rng(number)
        place = number % len(CONTAINERS)
        path = tmp_path / f"{number}-{CONTAINERS[place][0]}"
        path.write_bytes(DAMAGES[number // len(CONTAINERS) % len(DAMAGES)](sources[place], rng))
        row = video_of(path, tmp_path / "run")
        for worker in workers:
            row = row if isinstance(row, Skipped) else worker([row])[0]
        outcomes.append(row)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        path.unlink()
    skipped = [row for row in outcomes if isinstance(row, Skipped)]
    unforeseen = [row for row in skipped if row.reason in ("cannot be processed", "decoder hangs")]
    assert not unforeseen
    assert all(row.reason and row.detail for row in skipped)
    # Some are so little damaged that both passes succeed.
    assert 0 < len(skipped) < len(outcomes) or NUM_FILES < 50
    assert threading.active_count() <= num_threads + 2
    # Memory settles: what the first third needed is nearly enough for all.
    assert peaks[-1] < peaks[NUM_FILES // 3] + MAX_GROWTH_MIB
    assert len(os.listdir("/dev/fd")) <= num_open
    assert not list((tmp_path / "run" / "frames").rglob("*.tmp"))
