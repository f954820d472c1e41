"""Hashes stand for content, and seeds for a purpose."""

import hashlib
import os
import shutil

import pytest

from tempo.core.hashing import derive_seed, hash_checkpoint, hash_file, hash_text


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (directory / name).write_text(name)
    return directory


def test_a_hash_is_the_beginning_of_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()[:16]
    assert hash_text("abc") == hash_file(tmp_path / "a") == expected


def test_only_the_content_of_weights_configuration_and_tokenizer_changes_the_hash(checkpoint, tmp_path):
    before = hash_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("another card")
    os.utime(checkpoint / "config.json", (1, 1))
    moved = shutil.move(checkpoint, tmp_path / "moved")
    assert hash_checkpoint(moved) == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (moved / name).write_text("another content")
        assert hash_checkpoint(moved) != before
        (moved / name).write_text(name)


def test_seeds_differ_by_purpose_and_not_by_run():
    seeds = {derive_seed(seed, name, level) for seed in range(9) for name in "abc" for level in (2, 4)}
    assert len(seeds) == 54
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "video", 4) == derive_seed(1, "video", 4) == 7508713772455622301
