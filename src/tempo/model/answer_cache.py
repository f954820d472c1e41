"""Answers of a server, kept in the run directory: what was answered once is not asked for again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tempo.model.answers import Answer


class AnswerCache:
    """An append-only JSONL file, one answer a line, found by key; only the places are held in memory.

    A line that a kill left torn is passed over, and the next one begins on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        self._starts: dict[str, int] = {}
        self._file.seek(0)
        start, line = 0, b"\n"
        for line in self._file:
            if row := _parse(line):
                self._starts[row[0]] = start
            start += len(line)
        self._end, self._is_torn = start, not line.endswith(b"\n")

    def get(self, key: str) -> Answer | None:
        """The answer under `key`, None if there is none."""
        if key not in self._starts:
            return None
        self._file.seek(self._starts[key])
        row = _parse(self._file.readline())
        return row[1] if row else None

    def put(self, key: str, answer: Answer) -> None:
        """Adds an answer: a killed process loses none, a machine without power those since `sync`."""
        row = {"key": key, "text": answer.text, "is_whole": answer.is_whole}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        self._file.write(b"\n" + line if self._is_torn else line)
        self._file.flush()
        self._starts[key] = self._end + self._is_torn
        self._end, self._is_torn = self._end + self._is_torn + len(line), False

    def sync(self) -> None:
        """Returns once everything is on disk."""
        os.fsync(self._file.fileno())


def _parse(line: bytes) -> tuple[str, Answer] | None:
    """Key and answer of a line, None if it is no whole one."""
    try:
        row = json.loads(line)
        key, text, is_whole = row["key"], row["text"], row["is_whole"]
    except (ValueError, KeyError, TypeError):
        return None
    if not line.endswith(b"\n") or not (isinstance(key, str) and isinstance(text, str)):
        return None
    return key, Answer(text, is_whole is True)
