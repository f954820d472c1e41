"""Randomness: every draw comes from the run's seed and the name of what it is drawn for."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one purpose; neither the order of work nor the number of workers changes it."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
