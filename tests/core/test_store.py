"""A run directory survives being killed anywhere: torn lines, half-done stages, a second process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempo.core import files
from tempo.core import store as store_module
from tempo.core.records import Captions, Skipped
from tempo.core.row_files import read_rows
from tempo.core.store import SKIPPED, RunStore, read_config, run_directory_error, write_config


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "run")


def rows(*ids):
    return [Captions(id=name, captions=(f"caption of {name}",)) for name in ids]


def drop(name, stage="captions", reason="no caption"):
    return Skipped(id=name, stage=stage, reason=reason)


def tear(path, text='{"id": "torn", "capt'):
    """What a kill leaves: the beginning of a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def ids(store, name="captions"):
    return [row.id for row in store.read(name, Captions)]


def test_absent_file_has_no_rows(store):
    assert store.read("captions", Captions) == []


def test_rows_come_back_as_they_were_in_the_order_of_appending(store):
    store.append("captions", rows("b", "a"))
    store.append("captions", rows("é 映"))
    assert store.read("captions", Captions) == rows("b", "a", "é 映")


def test_text_with_line_separators_stays_one_row(store):
    row = Captions(id="a", captions=("one\ntwo\u2028three\x85four\r",))
    store.append("captions", [row])
    assert store.read("captions", Captions) == [row]


def test_torn_last_line_is_not_read(store):
    store.append("captions", rows("a"))
    tear(store.path("captions"))
    assert ids(store) == ["a"]


def test_whole_last_line_without_its_newline_counts_as_torn(store):
    """The newline is what says that the row is whole; read and append must agree on it."""
    store.append("captions", rows("a"))
    tear(store.path("captions"), rows("b")[0].model_dump_json())
    assert ids(store) == ["a"]
    store.append("captions", rows("c"))
    assert ids(store) == ["a", "c"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{}", "lacks id, captions"),
        ('{"id": 3, "captions": []}', "id: Input should be a valid string (got 3)"),
        ('{"id": "a", "colour": 1}', "lacks captions; colour: unknown key; known keys: id, captions"),
        ("[1]", "it should be an object of keys and values"),
        ('{"id"', "Invalid JSON: EOF while parsing an object at line 1 column 5"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_plain_words(tmp_path, line, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are looked at below
        read_rows(path, Captions, key="some.key")
    assert str(caught.value) == f"{path} line 1 is not a valid captions: {words}"


def test_damaged_line_in_the_middle_is_refused_by_file_and_line(store):
    store.append("captions", rows("a"))
    tear(store.path("captions"), "garbage\n")
    with pytest.raises(ValueError, match=r"captions\.jsonl.*2"):
        store.read("captions", Captions)


def test_handled_ids_are_rows_and_the_drops_of_that_stage_alone(store):
    store.append("captions", rows("a", "b"))
    store.append(SKIPPED, [drop("c"), drop("d", stage="shots")])
    tear(store.path("captions"))
    tear(store.path(SKIPPED))
    assert store.handled_ids("captions") == {"a", "b", "c"}
    assert store.handled_ids("shots") == {"d"}
    assert store.handled_ids("clips") == set()


def test_finish_sorts_rows_by_id_and_drops_by_stage_id_and_reason(store):
    store.append("captions", rows("b", "c", "a"))
    store.append(SKIPPED, [drop("z"), drop("y", stage="clips"), drop("x"), drop("x", reason="another")])
    store.finish("captions", "f1")
    assert ids(store) == ["a", "b", "c"]
    kept = [(row.stage, row.id, row.reason) for row in store.read(SKIPPED, Skipped)]
    assert kept == [
        ("captions", "x", "another"),
        ("captions", "x", "no caption"),
        ("captions", "z", "no caption"),
        ("clips", "y", "no caption"),
    ]


def test_finish_cuts_torn_lines(store):
    store.append("captions", rows("b", "a"))
    tear(store.path("captions"))
    store.finish("captions", "f1")
    assert store.path("captions").read_text() == "".join(r.model_dump_json() + "\n" for r in rows("a", "b"))


def test_finish_twice_gives_the_same_bytes(store):
    store.append("captions", rows("b", "a"))
    store.append(SKIPPED, [drop("c")])
    contents = []
    for _ in range(2):
        store.finish("captions", "f1")
        contents.append({p.name: p.read_bytes() for p in store.directory.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]


def test_order_of_work_leaves_no_trace_in_a_finished_file(tmp_path):
    contents = []
    for number, order in enumerate((["a", "b", "c"], ["c", "a", "b"])):
        store = RunStore(tmp_path / str(number))
        for name in order:
            store.append("captions", rows(name))
        store.finish("captions", "f1")
        contents.append(store.path("captions").read_bytes())
    assert contents[0] == contents[1]


def test_stage_without_rows_can_be_finished(store):
    store.finish("captions", "f1")
    assert store.is_done("captions")
    assert not store.path("captions").exists()


def test_marker_is_written_last(store, monkeypatch):
    store.append("captions", rows("b", "a"))
    replaced = []
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (replaced.append(Path(b).name), replace(a, b)))
    store.finish("captions", "f1")
    assert replaced == ["captions.jsonl", "captions.json"]


def test_stage_whose_sorting_fails_is_not_done(store, monkeypatch):
    store.append("captions", rows("b", "a"))
    store.begin("captions", "f1")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(store_module, "write_lines", full)
    with pytest.raises(OSError, match="no space"):
        store.finish("captions", "f1")
    assert not store.is_done("captions")
    assert ids(store) == ["b", "a"]


def test_fingerprint_is_known_from_the_beginning_and_after_the_end(store):
    assert store.fingerprint("captions") is None
    store.begin("captions", "f1")
    assert (store.fingerprint("captions"), store.is_done("captions")) == ("f1", False)
    store.finish("captions", "f1")
    assert (store.fingerprint("captions"), store.is_done("captions")) == ("f1", True)


def test_forget_removes_one_stage_and_nothing_else(store):
    for stage in ("captions", "clips"):
        store.begin(stage, "f1")
        store.append(stage, rows("a"))
        store.append(SKIPPED, [drop("b", stage=stage)])
        store.finish(stage, "f1")
    store.forget("captions")
    assert (store.is_done("captions"), store.fingerprint("captions")) == (False, None)
    assert store.handled_ids("captions") == set()
    assert (store.is_done("clips"), store.fingerprint("clips")) == (True, "f1")
    assert store.handled_ids("clips") == {"a", "b"}


def test_forgetting_a_stage_that_never_was_changes_nothing(store):
    store.append("clips", rows("a"))
    store.forget("captions")
    assert store.handled_ids("clips") == {"a"}
    assert not store.path(SKIPPED).exists()


def test_forget_that_is_interrupted_leaves_the_stage_not_done_and_still_stale(store, monkeypatch):
    """Else the next run takes the stage for done, with its rows gone."""
    store.begin("captions", "f1")
    store.append("captions", rows("a"))
    store.append(SKIPPED, [drop("b")])
    store.finish("captions", "f1")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "write_lines", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.forget("captions")
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


def test_lock_makes_the_directory_and_can_be_taken_again(store):
    for _ in range(2):
        with store.lock():
            assert store.directory.is_dir()


def test_versions_are_kept_with_the_fingerprint(store):
    assert store.versions("captions") == {}
    store.begin("captions", "f1", {"tempo": "1"})
    assert store.versions("captions") == {"tempo": "1"}
    store.finish("captions", "f1", {"tempo": "2"})
    assert (store.versions("captions"), store.fingerprint("captions")) == ({"tempo": "2"}, "f1")


def test_the_configuration_of_a_run_comes_back_as_plain_data(store):
    assert read_config(store.directory) == {}
    config = {"run": {"seed": 1}, "videos": {"paths": ["été 映画"]}}
    write_config(store.directory, config)
    assert read_config(store.directory) == config


@pytest.mark.parametrize(("made", "words"), [(False, "does not exist"), (True, "is no run of tempo")])
def test_a_directory_without_a_configuration_is_not_a_run(store, made, words):
    if made:
        store.directory.mkdir()
    assert words in run_directory_error(store.directory)
    write_config(store.directory, {})
    assert run_directory_error(store.directory) is None
