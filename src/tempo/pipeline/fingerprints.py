"""Fingerprints: a hash of all that the rows of a stage depend on."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tempo import __version__
from tempo.config import Config
from tempo.core.hashing import hash_checkpoint, hash_file, hash_text
from tempo.model.loading import EMBEDDED, embedded_path
from tempo.pipeline.stages import STAGES, Stage


def fingerprints(config: Config) -> dict[str, str]:
    """Stage name to 16 hex digits for its keys, its input files, the seed, and the stages before it."""
    chained = str(config.run.seed)
    result = {}
    for stage in STAGES:
        values = [_value(config, key, stage) for key in stage.keys]
        inputs = [_hash_input(config, key) for key in (*stage.input_files, *stage.checkpoints)]
        result[stage.name] = hash_text(json.dumps([chained, stage.name, values, inputs], sort_keys=True))
        chained = chained if stage.is_auxiliary else result[stage.name]
    return result


def versions() -> dict[str, str]:
    """The versions of the packages whose code makes the rows."""
    return {"tempo": __version__, "transformers": version("transformers")}


def look_up(config: Config, key: str) -> Any:
    """The value of `section.key`, or a whole section; None for a key of a missing section."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _value(config: Config, key: str, stage: Stage) -> Any:
    """A section or a value as plain data, without the keys that change no row."""
    value = look_up(config, key)
    ignored = {name.partition(".")[2] for name in stage.ignored_keys if name.startswith(f"{key}.")}
    return value.model_dump(mode="json", exclude=ignored) if hasattr(value, "model_dump") else value


def _hash_input(config: Config, key: str) -> str:
    """A hash of the content of the file or checkpoint under `key`; empty for a missing one or a hub name."""
    value = look_up(config, key)
    if not value or (key, value) == ("clips.features", EMBEDDED):
        return ""
    path = embedded_path() if value == EMBEDDED else Path(value).expanduser()
    try:
        return hash_checkpoint(path) if path.is_dir() else hash_file(path)
    except OSError:
        # A missing file is reported before any work; `tempo status` must work without it.
        return ""
