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


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_checkpoint_is_known_by_its_weights_and_words(checkpoint, name):
    before = hash_checkpoint(checkpoint)
    (checkpoint / name).write_text("another content")
    assert hash_checkpoint(checkpoint) != before


def test_neither_card_nor_place_nor_time_change_the_hash_of_a_checkpoint(checkpoint, tmp_path):
    before = hash_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("another card")
    os.utime(checkpoint / "config.json", (1, 1))
    shutil.move(checkpoint, tmp_path / "moved")
    assert hash_checkpoint(tmp_path / "moved") == before


def test_seeds_differ_by_purpose_and_not_by_run():
    seeds = {derive_seed(seed, name, level) for seed in range(9) for name in "abc" for level in (2, 4)}
    assert len(seeds) == 54
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "video", 4) == derive_seed(1, "video", 4) == 7508713772455622301
