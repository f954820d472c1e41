"""Moved to `tempo.core.hashing`."""

from tempo.core.hashing import derive_seed as derive_seed
