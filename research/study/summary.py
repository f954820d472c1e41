"""From the rows of a study to `study.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from research.study.claims import judge_claims
from research.study.figures import Row, correlations, differences, means, shares
from tempo.core.files import write_text

#: What every row must have; the rest may be absent.
ROW_KEYS = ("row", "seed", "accuracy")
STUDY_KEYS = ("command", "commit", "date", "seeds", "rows", "means", "differences", "correlation", "claims")


def summarize_study(
    rows: Sequence[Row], *, command: str, commit: str, minutes: float, date: str = ""
) -> dict[str, Any]:
    """The content of `study.json`: the rows as they are, and all that follows from them.

    `date` is today's in UTC unless given. Raises ValueError for a row without a key that it needs, and for
    two rows of one name and seed.
    """
    _check_rows(rows)
    study: dict[str, Any] = {
        "command": command,
        "commit": commit,
        "date": date or datetime.now(UTC).date().isoformat(),
        "minutes": round(minutes, 1),
        "seeds": sorted({row["seed"] for row in rows}),
        "rows": [dict(row) for row in rows],
        "means": means(rows),
        "differences": differences(rows),
        "shares": shares(rows),
        "correlation": correlations(rows),
    }
    return {**study, "claims": judge_claims(study)}


def summarize_again(study: Mapping[str, Any]) -> dict[str, Any]:
    """The study with everything that follows from its rows made anew."""
    told = {key: study[key] for key in ("command", "commit", "minutes", "date")}
    return summarize_study(study["rows"], **told)


def _check_rows(rows: Sequence[Row]) -> None:
    seen: set[tuple[str, int]] = set()
    for number, row in enumerate(rows, 1):
        for key in ROW_KEYS:
            if key not in row:
                raise ValueError(f"study: row {number} ({row.get('row', 'no name')}) has no {key!r}")
        if (run := (row["row"], row["seed"])) in seen:
            raise ValueError(f"study: row {run[0]!r} with seed {run[1]} is there twice")
        seen.add(run)


def write_study(study: Mapping[str, Any], path: Path) -> None:
    """Writes `study.json` with one entry of each list on a line, so that two studies can be compared."""
    parts = [f"{json.dumps(key)}: {_lines(value)}" for key, value in study.items()]
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _lines(value: Any) -> str:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in value) + "\n]"


def read_study(path: Path) -> dict[str, Any]:
    """What `write_study` wrote; raises ValueError that names the file where it is no study."""
    try:
        study = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a study: {error}") from error
    if not isinstance(study, dict) or (missing := [key for key in STUDY_KEYS if key not in study]):
        raise ValueError(f"{path} is no study: {', '.join(missing) if isinstance(study, dict) else study!r}")
    return study
