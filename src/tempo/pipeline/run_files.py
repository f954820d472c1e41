"""What lies in a run directory beside its rows: the configuration, the surroundings, what a stage wrote."""

from __future__ import annotations

import platform
import shutil
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo.core.store import RunStore, write_json, write_text
from tempo.engine.types import Context, count_workers
from tempo.pipeline.rounds import surplus_rounds


def discard_files(name: str, directory: Path) -> None:
    """Removes what a stage wrote beside its rows."""
    beside = {
        "synthetic": ["synthetic"],
        "shots": ["frames"],
        "captions": ["start"],
        "pairs": ["held_out_pairs.jsonl"],
        "audit": ["audit.json"],
        "training": ["train", "baselines", "model"],
        "evaluation": ["evaluation", "evaluation.json"],
        "report": ["report.html"],
    }
    for entry in beside.get(name, []):
        path = directory / entry
        is_folder = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)


def settle_config(
    context: Context, stale: Mapping[str, tuple[str, Path]], console: Console, *, redo: bool
) -> None:
    """Refuses or discards rows of another configuration, then writes down this one.

    `stale` has what a person calls each stale stage, its name, and the directory of its round.
    """
    surplus = surplus_rounds(context)
    if (stale or surplus) and not redo:
        changed = ", ".join(_changed_keys(context)) or "a file that it names has another content"
        names = [*stale, *(f"round {path.name}" for path in surplus)]
        raise ValueError(
            f"{context.directory} was made with another config ({changed}), so these stages would not match: "
            f"{', '.join(names)}. Choose another --out, or add --redo to make them again"
        )
    # The last first: after a kill in between, what is left stands on rows that are still there.
    for words, (name, directory) in reversed(list(stale.items())):
        console.print(f"{words}: discarded, the config changed")
        # Files first: a kill in between leaves the stage stale, and its files are removed again.
        discard_files(name, directory)
        RunStore(directory).forget(name)
    for path in surplus:
        console.print(f"round {path.name}: discarded, the config changed")
        shutil.rmtree(path)
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
    import tomli_w

    plain = context.config.model_dump(mode="json", exclude_none=True, exclude_unset=False)
    write_text(context.directory / "config.toml", tomli_w.dumps(plain))
    write_json(context.directory / "environment.json", environment())


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration written down in a run directory; empty where there is none."""
    path = directory / "config.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def environment() -> dict[str, Any]:
    """Versions of what the results depend on."""
    names = ("tempo-dpo", "torch", "transformers", "peft", "accelerate", "av", "scenedetect", "numpy")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "num_cores": count_workers(0),
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
