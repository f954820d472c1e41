"""Files are replaced whole or not at all, an incomplete last line is dropped, bad rows are named."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest

from tempo.core.files import (
    append_jsonl,
    read_jsonl,
    read_user_file,
    replace_directory,
    replace_file,
    validate_row,
    write_bytes,
    write_json,
    write_lines,
    write_text,
)
from tempo.core.records import Captions


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
def test_a_file_is_replaced_as_a_whole_and_no_other_file_is_left(tmp_path, write, data, expected):
    path = tmp_path / "deep" / "file.txt"
    for _ in range(2):
        write(path, data)
        assert path.read_bytes() == expected.encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("options", [{}, {"is_durable": False}])
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


def test_the_file_of_a_killed_process_is_removed_by_the_next_write(tmp_path):
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
def test_an_incomplete_last_line_is_not_read_and_is_cut_before_the_next_row(tmp_path, before, torn):
    """A line without a newline is incomplete, even if it is valid JSON."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before.encode() + torn)
    whole = [{"id": 1}, {"id": 2}][: before.count("\n")]
    assert read_jsonl(path) == whole
    append_jsonl(path, ['{"id": 3}'])
    assert read_jsonl(path) == [*whole, {"id": 3}]
    assert path.read_bytes().startswith(before.encode() + b'{"id": 3}')


def test_a_missing_file_has_no_rows_and_appending_nothing_does_not_make_it(tmp_path):
    append_jsonl(tmp_path / "a.jsonl", [])
    assert read_jsonl(tmp_path / "a.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def test_appended_rows_are_on_disk_before_the_call_returns(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_size), fsync(file)))
    append_jsonl(tmp_path / "a.jsonl", ["{}", "{}"])
    assert synced == [6]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "id: Field required; captions: Field required"),
        ('{"id": 3, "captions": []}', "id: Input should be a valid string (got 3)"),
        (
            '{"id": "a", "colour": 1}',
            "captions: Field required; colour: unknown key; known keys: id, captions",
        ),
        ("[1]", "a row is an object of keys and values, got '1'"),
        ('{"id"', "not valid JSON: Expecting ':' delimiter: line 1 column 6 (char 5)"),
    ],
)
def test_a_bad_row_of_a_model_is_named_with_file_and_fault(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"^some\.key: .*rows\.jsonl (row|line) 1: ") as caught:
        read_user_file(path, "some.key", partial(validate_row, Captions)).check(0)
    assert str(caught.value).endswith(f" 1: {message}. 1 of 1 rows are bad. Fix or remove them")


def as_it_is(row):
    return row


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", b'{"a": "x\xe2\x80\xa8y"}\n{}\n', {"line 1": {"a": "x\u2028y"}, "line 2": {}}),
        ("a.json", b'[{"a": 1},\n {"a": 2}]\n', {"row 1": {"a": 1}, "row 2": {"a": 2}}),
        ("a.json", b'\xef\xbb\xbf\r\n{"data": [{"a": 1}],\n "version": 2}', {"row 1": {"a": 1}}),
        # Blank lines are no rows; null and what pandas writes for it are absent.
        ("a.jsonl", b'\n{"a": 1, "b": null}\r\n \n{"a": NaN}\n\n', {"line 2": {"a": 1}, "line 4": {}}),
        ("a.jsonl", b'{"a": "\\ud83d \\ud83d\\ude00", "b": [{"\\uDE00": 1}]}', {
            "line 1": {"a": "\ufffd \U0001f600", "b": [{"\ufffd": 1}]}
        }),
    ],
)  # fmt: skip
def test_good_rows_of_a_users_file(tmp_path, name, content, rows):
    path = tmp_path / name
    path.write_bytes(content)
    assert read_user_file(path, "key", as_it_is).check(0).rows == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "key: .*a.jsonl line 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n"\xff"\n', "line 2: not valid JSON: 'utf-8' codec can't decode"),
        ("a.jsonl", b'{"a": 1}\n[{"a": 2}]\n', r"line 2: a row is an object .* got \"\[{'a': 2}\]"),
        ("a.jsonl", b'[]\n{"a": 1}\n', r"line 1: a row is an object .* got '\[\]'\. 1 of 2 rows"),
        ("a.jsonl", b'{"a": 1}\n' + 5000 * b"[", "line 2: not valid JSON: .*recursion"),
        ("a.json", b'[{"a": 1}, 2]', "row 2: a row is an object"),
        ("a.json", b'[{"a": 1}', "key: .*a.json is not valid JSON"),
        ("a.jsonl", b" \n", "key: .*a.jsonl has no rows"),
        ("a.parquet", b"no table", "key: .* cannot be read"),
        ("missing.jsonl", None, "key: .* cannot be read"),
    ],
)
def test_bad_rows_of_a_users_file_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_user_file(path, "key", as_it_is).check(0.05)


def test_bad_rows_are_set_aside_with_a_warning_up_to_a_share(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 93 + "{\n" * 7)
    read = read_user_file(path, "key", as_it_is)
    with pytest.warns(UserWarning, match=r"line 94: .*; line 98: .*; and 2 more\. 7 of 100 rows are bad"):
        table = read.check(0.07)
    assert [*table.faults] == [f"line {number}" for number in range(94, 101)]
    assert len(table.rows) == 93
    with pytest.raises(ValueError, match=r"line 94: .* raise run\.max_bad_share \(0\.06\)"):
        read.check(0.06)
