"""What lies in a run directory beside its rows: the configuration, the surroundings, what a stage wrote."""

from __future__ import annotations

import platform
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tempo import engine
from tempo.stage import Context
from tempo.store import write_json, write_text


def discard_files(name: str, directory: Path) -> None:
    """Removes what a stage wrote beside its rows."""
    beside = {
        "synthetic": ["synthetic"],
        "shots": ["frames"],
        "pairs": ["held_out_pairs.jsonl"],
        "audit": ["audit.json"],
        "training": ["train", "baselines", "model"],
        "evaluation": ["evaluation", "evaluation.json"],
        "report": ["report.html"],
    }
    for entry in beside.get(name, []):
        path = directory / entry
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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
        "num_cores": engine.count_workers(0),
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
