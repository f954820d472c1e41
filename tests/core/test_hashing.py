"""Hashes of content, and seeds per purpose. Hashes of checkpoints: tests/pipeline/test_fingerprints.py."""

import hashlib

from tempo.core.hashing import derive_seed, hash_file, hash_text


def test_a_hash_is_the_beginning_of_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()[:16]
    assert hash_text("abc") == hash_file(tmp_path / "a") == expected


def test_seeds_differ_by_purpose_and_not_by_run():
    seeds = {derive_seed(seed, name, level) for seed in range(9) for name in "abc" for level in (2, 4)}
    assert len(seeds) == 54
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "video", 4) == derive_seed(1, "video", 4) == 7508713772455622301
