"""Writes configuration.md next to this file: every configuration key with its type, default and meaning.

python docs/configuration.py
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from tempo.config import Config, DpoPhase, GrpoPhase, SftPhase
from tempo.config.running import PublicBenchmarkConfig

TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

INTRODUCTION = """\
# Configuration

This page is generated from the code by `python docs/configuration.py`. A configuration is a TOML file with
the sections below. Sections and keys may be left out, except for required keys. A run needs either
`videos.paths` or a `[synthetic]` section. An unknown key or a value outside its limits is an error that
names the key.

**Relative paths** are relative to the working directory, except that the videos in a benchmark or in
instructions are relative to the file that names them.

**`--set section.key=value`** overrides a value and may be given several times. The value is in TOML syntax,
and quotes around text may be left out: `--set videos.paths='["a", "b"]' --set frames.fps=2`. To change
phases, edit the file, or override the whole list.
"""

PHASES = """\
The phases run in the order of the file; each one starts from the model that the previous phase produced.
LoRA adapters stack and are merged once, after the last phase. The loss of a step is the mean over its
pairs or answer tokens, regardless of the grouping.
"""


def reference() -> str:
    """The whole page, with the sections in the order of `Config`."""
    return "\n".join([INTRODUCTION, *(_part(*section) for section in sections())])


def sections() -> Iterator[tuple[str, str, Mapping[str, FieldInfo]]]:
    """Heading, introduction and keys of each section."""
    for name, field in Config.model_fields.items():
        model = (*get_args(field.annotation), field.annotation)[0]
        yield f"`[{name}]`", f"{inspect.getdoc(model)}\n", model.model_fields
        if name == "training":
            yield from _phases()
        if name == "evaluation":
            own = PublicBenchmarkConfig
            yield "`[[evaluation.benchmarks]]`", f"{inspect.getdoc(own)}\n", own.model_fields


def _phases() -> Iterator[tuple[str, str, Mapping[str, FieldInfo]]]:
    """The keys that all phases share, then those of each objective."""
    shared = DpoPhase.__base__.model_fields
    yield "`[[training.phases]]`", PHASES, shared
    for model in (DpoPhase, SftPhase, GrpoPhase):
        (objective,) = get_args(model.model_fields["objective"].annotation)
        own = {key: field for key, field in model.model_fields.items() if key not in shared}
        yield (
            f"`[[training.phases]]` with `objective = {json.dumps(objective)}`",
            f"{inspect.getdoc(model)}\n",
            own,
        )


def _part(heading: str, introduction: str, fields: Mapping[str, FieldInfo]) -> str:
    """A section's heading and introduction, and a table of its keys."""
    rows = [
        f"| `{key}` | {type_name(it.annotation)}{_bounds(it)} | {_default(it)} | {it.description} |"
        for key, it in fields.items()
    ]
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    return f"## {heading}\n\n{introduction}\n{table}\n"


def type_name(kind: Any, plural: str = "") -> str:
    """A type in plain words; `plural` is "s" for the items of a list or table."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (tuple, dict):
        name, of = ("list", inner[0]) if origin is tuple else ("table", inner[1])
        return f"{name}{plural} of {type_name(of, 's')}"
    return type_name(inner[0], plural) if inner else TYPES.get(kind, "table") + plural


def _bounds(field: FieldInfo) -> str:
    found = [(word, getattr(item, name, None)) for item in field.metadata for name, word in BOUNDS.items()]
    return "".join(f", {word} {bound:g}" for word, bound in found if bound is not None)


def _default(field: FieldInfo) -> str:
    """The default in TOML syntax."""
    if field.is_required():
        return "required"
    return "unset" if field.default is None else f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(reference(), encoding="utf-8")
