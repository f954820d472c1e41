"""Files appear whole or not at all, and a torn last line is neither read nor kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tempo.core.files import (
    append_jsonl,
    read_jsonl,
    replace_directory,
    replace_file,
    write_bytes,
    write_json,
    write_lines,
    write_text,
)


@pytest.mark.parametrize(
    ("write", "data", "expected"),
    [
        (write_text, "é\n", "é\n"),
        (write_lines, ["a", "b"], "a\nb\n"),
        (write_lines, [], ""),
        (write_json, {"a": "é"}, '{\n  "a": "é"\n}\n'),
        (write_bytes, "é".encode(), "é"),
    ],
)
def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path, write, data, expected):
    path = tmp_path / "deep" / "file.txt"
    for _ in range(2):
        write(path, data)
        assert path.read_bytes() == expected.encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("options", [{}, {"is_durable": False}, {"is_shared": True}])
def test_an_error_while_writing_leaves_the_old_content(tmp_path, options):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write():
        with replace_file(path, **options) as temporary:
            temporary.write_text("new and longer")
            assert path.read_text() == "old", "readers never see half a file"
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


KILLED = """
import os, sys
from pathlib import Path
from tempo.core.files import replace_directory, replace_file
with {function}(Path(sys.argv[1])) as temporary:
    {write}
    os._exit(9)
"""


def killed_while(function, write, path):
    script = KILLED.format(function=function, write=write)
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 9


def test_what_a_killed_process_was_writing_is_gone_with_the_next_write(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    killed_while("replace_file", "temporary.write_text('half')", path)
    assert path.read_text() == "old"
    write_text(path, "new and longer")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    for content in ("old", "new"):
        with replace_directory(path) as directory:
            (directory / content).write_text("x")
    assert [p.name for p in path.iterdir()] == ["new"]
    killed_while("replace_directory", "(temporary / 'half').touch()", path)
    assert [p.name for p in path.iterdir()] == ["new"]
    with replace_directory(path) as directory:
        (directory / "newest").touch()
    assert [p.name for p in path.iterdir()] == ["newest"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("before", ["", '{"id": 1}\n', '{"id": 1}\n{"id": 2}\n'])
@pytest.mark.parametrize("torn", [b"", b'{"id"', '{"id": "映'.encode()[:-1], b'{"id": 9}'])
def test_a_torn_last_line_is_not_read_and_is_cut_before_the_next_row(tmp_path, before, torn):
    """A line without its newline counts as torn, even if it happens to be complete JSON."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before.encode() + torn)
    whole = [{"id": 1}, {"id": 2}][: before.count("\n")]
    assert read_jsonl(path) == whole
    append_jsonl(path, ['{"id": 3}'])
    assert read_jsonl(path) == [*whole, {"id": 3}]
    assert path.read_bytes().startswith(before.encode() + b'{"id": 3}')


def test_an_absent_file_has_no_rows_and_appending_nothing_makes_none(tmp_path):
    append_jsonl(tmp_path / "a.jsonl", [])
    assert read_jsonl(tmp_path / "a.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def test_appended_rows_are_on_disk_before_the_call_returns(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), fsync(file)))
    append_jsonl(tmp_path / "a.jsonl", ["{}", "{}"])
    assert synced == [6]
