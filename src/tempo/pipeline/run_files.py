"""What lies in a run directory beside its rows: the configuration, the surroundings, what a stage wrote."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo.core import store
from tempo.core.store import RunStore, read_config, write_json
from tempo.engine import pool as engine
from tempo.engine.types import Context

#: Files and folders that a stage writes beside its rows.
FILES = {
    "synthetic": ("synthetic",),
    "shots": ("frames",),
    "pairs": ("held_out_pairs.jsonl",),
    "audit": ("audit.json",),
    "training": ("train", "baselines", "model"),
    "evaluation": ("evaluation", "evaluation.json"),
    "report": ("report.html",),
}


def discard_files(name: str, directory: Path) -> None:
    """Removes what a stage wrote beside its rows."""
    for entry in FILES.get(name, ()):
        path = directory / entry
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def settle_config(context: Context, stale: Sequence[str], console: Console, *, redo: bool) -> None:
    """Refuses rows of another configuration or discards the `stale` stages; writes this one."""
    if stale and not redo:
        changed = ", ".join(_changed_keys(context)) or "a file that it names has another content"
        raise ValueError(
            f"{context.directory} was made with another config ({changed}), so these stages would not match: "
            f"{', '.join(stale)}. Choose another --out, or add --redo to make them again"
        )
    # The last first: after a kill in between, what is left depends on rows that are still there.
    for name in reversed(stale):
        console.print(f"{name}: discarded, the config changed")
        # Files first: a kill in between leaves the stage stale, and its files are removed again.
        discard_files(name, context.directory)
        RunStore(context.directory).forget(name)
    write_config(context)


def _changed_keys(context: Context) -> list[str]:
    """Dotted keys that differ from the configuration written down in the run directory."""
    old, new = read_config(context.directory), context.config.model_dump(mode="json")
    return [
        f"{section}.{key}"
        for section in new
        for key in sorted({*(old.get(section) or {}), *(new[section] or {})})
        if (old.get(section) or {}).get(key) != (new[section] or {}).get(key)
    ]


def write_config(context: Context) -> None:
    """Writes the whole configuration, defaults included, and what it ran on."""
    plain = context.config.model_dump(mode="json", exclude_none=True, exclude_unset=False)
    store.write_config(context.directory, plain)
    write_json(context.directory / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Versions of what the results depend on."""
    names = ("tempo-dpo", "torch", "transformers", "peft", "accelerate", "av", "scenedetect", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "num_cores": engine.count_workers(0),
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
