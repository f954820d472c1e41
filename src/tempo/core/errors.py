"""Errors of pydantic as one plain line each, for configurations and for rows of files."""

from __future__ import annotations

import difflib
import json
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def describe_error(error: Any, model: type[BaseModel]) -> str:
    """One line for an item of `ValidationError.errors()` of `model`: dotted key, problem, value."""
    key = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_known_keys(error['loc'], model)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "tuple_type":
        message = f"write a list{_as_list(error['input'])}"
    # For a missing key pydantic shows the whole section, which may be long or hold a secret.
    shown = "" if error["type"] in ("value_error", "missing") else f" (got {error['input']!r})"
    return f"{key}: {message}{shown}"


def _as_list(value: Any) -> str:
    """How a single value is written as a list; empty for types that TOML and JSON write differently."""
    return f": {json.dumps([value], ensure_ascii=False)}" if isinstance(value, str | int | float) else ""


def _known_keys(location: tuple[Any, ...], model: Any) -> str:
    """The keys of the section at `location[:-1]`, with the most similar one first."""
    is_name = False
    for part in location[:-1]:
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        annotation = model.model_fields[part].annotation
        # In a table of sections the next part is a name that the user chose.
        is_name = get_origin(annotation) is dict
        candidates = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        model = next(a for a in candidates if issubclass(a, BaseModel))
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known keys: {', '.join(known)}"
