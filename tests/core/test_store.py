"""A run directory survives a kill at any moment and refuses a second process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sample_material import video_row

from tempo.core import files
from tempo.core.records import Captions, Skipped
from tempo.core.store import SKIPPED, RunStore, check_run_directory, count_skipped, read_config, write_config


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "run")


def rows(*ids):
    return [Captions(id=name, captions=(f"caption of {name}",)) for name in ids]


def skipped(name, stage="captions", reason="no caption"):
    return Skipped(id=name, stage=stage, reason=reason)


def tear(path, text='{"id": "torn", "capt'):
    """What a kill leaves: the beginning of a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def ids(store, name="captions"):
    return [row.id for row in store.read(name, Captions)]


def test_rows_come_back_as_they_were_in_the_order_of_appending(store):
    assert ids(store) == []
    odd = Captions(id="é 映", captions=("one\ntwo\u2028three\x85four\r",))
    store.append("captions", rows("b", "a"))
    store.append("captions", [odd])
    assert store.read("captions", Captions) == [*rows("b", "a"), odd]


def test_the_disk_is_waited_for_once_a_second_and_before_a_stage_is_done(store, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    for name in ("a", "b", "c"):
        store.append("captions", rows(name))
        assert ids(RunStore(store.directory))[-1] == name
    assert len(synced) == 1
    store.finish("captions", "f")
    assert synced[1] == store.path("captions").stat().st_ino


def test_damaged_line_in_the_middle_is_refused_by_file_and_line(store):
    store.append("captions", rows("a"))
    tear(store.path("captions"), "garbage\n")
    with pytest.raises(ValueError, match=r"captions\.jsonl.*2"):
        store.read("captions", Captions)


def test_rows_are_read_one_by_one_by_their_ids(store):
    missing = store.rows("captions", Captions)
    assert (dict(missing), "a" in missing, missing.get("a")) == ({}, False, None)
    odd = Captions(id='é "映"\\\n', captions=("x",))
    store.append("captions", [*rows("b", "a"), odd])
    tear(store.path("captions"))
    found = store.rows("captions", Captions)
    assert list(found.values()) == [*rows("b", "a"), odd]
    assert (found["a"], "c" in found, store.count("captions")) == (rows("a")[0], False, 3)
    tear(store.path("captions"), "\n")
    with pytest.raises(ValueError, match=r"captions\.jsonl: row 'torn' is not a valid captions"):
        store.rows("captions", Captions)["torn"]
    tear(store.path("captions"), "garbage\n")
    with pytest.raises(ValueError, match=r"does not begin with an id: b'garbage"):
        store.rows("captions", Captions)


def test_handled_ids_are_the_rows_and_skipped_records_of_one_stage(store):
    store.append("captions", rows("a", "b"))
    store.append(SKIPPED, [skipped("c"), skipped("d", stage="shots")])
    tear(store.path("captions"))
    tear(store.path(SKIPPED))
    assert store.handled_ids("captions") == {"a", "b", "c"}
    assert store.handled_ids("shots") == {"d"}
    assert store.handled_ids("clips") == set()


@pytest.mark.parametrize("order", ["abc", "cab"])
def test_finish_sorts_all_complete_rows_and_repeating_it_changes_nothing(store, order):
    for name in order:
        store.append("captions", rows(name))
    tear(store.path("captions"))
    others = [skipped("z"), skipped("y", stage="clips"), skipped("x"), skipped("x", reason="another")]
    store.append(SKIPPED, others)
    for _ in range(2):
        store.finish("captions", "f1")
        expected = "".join(row.model_dump_json() + "\n" for row in rows("a", "b", "c"))
        assert store.path("captions").read_text() == expected
        found = [(row.stage, row.id, row.reason) for row in store.read(SKIPPED, Skipped)]
        assert found == [
            ("captions", "x", "another"),
            ("captions", "x", "no caption"),
            ("captions", "z", "no caption"),
            ("clips", "y", "no caption"),
        ]


def test_fingerprint_and_versions_are_known_from_the_beginning_and_after_the_end(store):
    assert (store.fingerprint("captions"), store.versions("captions")) == (None, {})
    store.begin("captions", "f1", {"tempo": "1"})
    assert (store.fingerprint("captions"), store.is_done("captions")) == ("f1", False)
    assert store.versions("captions") == {"tempo": "1"}
    store.finish("captions", "f2", {"tempo": "2"})
    assert (store.fingerprint("captions"), store.is_done("captions")) == ("f2", True)
    assert store.versions("captions") == {"tempo": "2"}


def test_forget_removes_one_stage_and_nothing_else(store):
    for stage in ("captions", "clips"):
        store.begin(stage, "f1")
        store.append(stage, rows("a"))
        store.append(SKIPPED, [skipped("b", stage=stage)])
        store.finish(stage, "f1")
    store.forget("captions")
    assert (store.is_done("captions"), store.fingerprint("captions")) == (False, None)
    assert store.handled_ids("captions") == set()
    assert (store.is_done("clips"), store.fingerprint("clips")) == (True, "f1")
    assert store.handled_ids("clips") == {"a", "b"}


@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("sort_lines", lambda store: store.finish("captions", "f1")),
        ("write_lines", lambda store: store.forget("captions")),
    ],
)
def test_an_interrupted_change_leaves_the_stage_not_done_and_still_stale(store, monkeypatch, step, change):
    """Otherwise the next run would treat the stage as done, without its rows or with unsorted ones."""
    store.begin("captions", "f1")
    store.append("captions", rows("b", "a"))
    store.append(SKIPPED, [skipped("c")])
    if step == "write_lines":
        store.finish("captions", "f1")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        change(store)
    assert not store.is_done("captions")
    assert store.fingerprint("captions") == "f1"


HOLD = """
import sys
from pathlib import Path
from tempo.core.store import RunStore
with RunStore(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused_until_the_first_ends_however_it_ends(store):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="in use by another tempo run") as caught, store.lock():
            pass
        assert str(store.directory) in str(caught.value)
    finally:
        holder.kill()
        holder.communicate()
    with store.lock():
        pass


def test_a_run_is_a_directory_with_a_configuration_that_comes_back_as_plain_data(store):
    assert read_config(store.directory) == {}
    with pytest.raises(ValueError, match=r"is not a run directory: no config\.toml"):
        check_run_directory(store.directory)
    config = {"run": {"seed": 1}, "videos": {"paths": ["été 映画"]}}
    write_config(store.directory, config)
    check_run_directory(store.directory)
    assert read_config(store.directory) == config


def test_skipped_records_are_counted_by_reason_with_an_example_named_by_its_file(store):
    store.append("videos", [video_row("7f", "films/my cat.mp4")])
    for name, stage in (("films/a.mp4", "videos"), ("7f", "clips"), ("7f/drop-16", "pairs"), ("b", "pairs")):
        store.append(stage, [Skipped(id=name, stage=stage, reason="r", detail="d")])
    assert count_skipped(store) == {
        ("videos", "r"): (1, 0, "a.mp4: d"),
        ("clips", "r"): (1, 0, "my cat.mp4: d"),
        ("pairs", "r"): (2, 0, "b: d"),
    }
