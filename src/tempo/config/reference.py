"""Writes docs/configuration.md: every key of a configuration with its type, default and meaning.

python -m tempo.config.reference docs/configuration.md
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from tempo.config import Config, PhaseConfig, Section
from tempo.core.store import write_text
from tempo.pipeline.stages import NAMES

WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
BOUNDS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}

INTRODUCTION = f"""\
# Configuration

Every key, written by `python -m tempo.config.reference docs/configuration.md` from the models of its sections.
Keys without a default must be given; all others may be left out, and so may sections. A run has either
`videos.paths` or `[synthetic]`. Unknown keys, bad values and those that would do nothing are refused by name.

**Paths** that are relative are so to the working directory, not to the file they stand in. Only a study's
`base` and `extends`, and videos in a benchmark or in instructions, are relative to the file that names them.

**`--set section.key=value`** overrides one value and may be repeated. The value is TOML, or a bare word for
text; lists need quotes: `--set videos.paths='["a", "b"]' --set frames.fps=2`. Phases are changed in the file.

**`--until STAGE`** ends `tempo run` after a stage: {", ".join(NAMES)}.
"""


def reference() -> str:
    """The document: one part per section, in the order of `Config`."""
    return "\n".join([INTRODUCTION, *(_part(heading, model) for heading, model in sections())])


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Each section under its heading in TOML."""
    for name, field in Config.model_fields.items():
        yield f"[{name}]", (*get_args(field.annotation), field.annotation)[0]
        if name == "training":
            yield "[[training.phases]]", PhaseConfig


def _part(heading: str, model: type[Section]) -> str:
    """A section's heading, what its docstring says, and a table of its keys."""
    rows = [
        f"| `{key}` | {in_words(it.annotation)}{_bounds(it)} | {_default(it)} | {it.description or ''} |"
        for key, it in model.model_fields.items()
    ]
    table = "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows])
    return f"## `{heading}`\n\n{inspect.getdoc(model)}\n\n{table}\n"


def in_words(kind: Any, plural: str = "") -> str:
    """A type in plain words; `plural` is "s" for what is inside a list."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (tuple, dict):
        name, of = ("list", inner[0]) if origin is tuple else ("table", inner[1])
        return f"{name}{plural} of {in_words(of, 's')}"
    return in_words(inner[0]) if inner else WORDS.get(kind, "table") + plural


def _bounds(field: FieldInfo) -> str:
    found = [(word, getattr(item, name, None)) for item in field.metadata for name, word in BOUNDS.items()]
    return "".join(f", {word} {bound:g}" for word, bound in found if bound is not None)


def _default(field: FieldInfo) -> str:
    """As TOML has it; nothing for a key that must be given."""
    if field.is_required():
        return ""
    return "unset" if field.default is None else f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), reference())
