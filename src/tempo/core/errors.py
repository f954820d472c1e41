"""Errors of pydantic as one plain line each, for configurations and for rows of files."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def describe_error(error: Any, model: type[BaseModel]) -> str:
    """One item of `ValidationError.errors()` of `model` in a line: the dotted key, the problem, the value."""
    location, section, others = _locate(error["loc"], model)
    key = ".".join(location) or "config"
    if error["type"].startswith("union_tag"):
        return _describe_tag(key, error)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_known_keys(location[-1], section, others)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "tuple_type":
        message = f"write a list{_as_list(error['input'])}"
    # For a missing key pydantic shows the whole section, which may be long or hold a secret.
    shown = "" if error["type"] in ("value_error", "missing") else f" (got {error['input']!r})"
    return f"{key}: {message}{shown}"


def _describe_tag(key: str, error: Any) -> str:
    """The line for a missing or unknown value of the key that selects one of several models."""
    key = f"{key}.{error['ctx']['discriminator'].strip(chr(39))}"
    if error["type"] == "union_tag_not_found":
        return f"{key}: Field required"
    return f"{key}: Input should be one of {error['ctx']['expected_tags']} (got {error['ctx']['tag']!r})"


def _as_list(value: Any) -> str:
    """How a single value is written as a list; empty for types that TOML and JSON write differently."""
    return f": {json.dumps([value], ensure_ascii=False)}" if isinstance(value, str | int | float) else ""


def _locate(location: tuple[Any, ...], model: Any) -> tuple[list[str], Any, dict[str, Any]]:
    """The parts that the user wrote, the model that the last one is a key of, and that model's alternatives.

    In a union of models pydantic adds the tag of the chosen one, which the user did not write there.
    """
    parts: list[str] = []
    choices: dict[str, Any] = {}
    is_name, last = False, len(location) - 1
    for number, part in enumerate(location):
        if part in choices:
            model = choices[part]
            continue
        parts.append(str(part))
        if number == last or isinstance(part, int) or is_name:
            is_name = False
            continue
        annotation = model.model_fields[part].annotation
        # In a table of sections the next part is a name that the user chose.
        is_name = get_origin(annotation) is dict
        models = list(_models(annotation))
        model = next(iter(models), model)
        choices = {tag: choice for choice in models for tag in _tags(choice)} if len(models) > 1 else {}
    return parts, model, {tag: choice for tag, choice in choices.items() if choice is not model}


def _models(annotation: Any) -> Iterator[Any]:
    """The models inside a type, such as `tuple[A | B, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _tags(model: Any) -> Iterator[str]:
    """The values of the keys that can have only one."""
    for field in model.model_fields.values():
        if len(values := get_args(field.annotation)) == 1:
            yield values[0]


def _known_keys(key: str, section: Any, others: dict[str, Any]) -> str:
    """Which section has the key, or all keys of this one with the most similar one first."""
    for tag, other in others.items():
        if key in other.model_fields:
            return f"only {tag!r} has it, remove it here"
    known = list(section.model_fields)
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known keys: {', '.join(known)}"
