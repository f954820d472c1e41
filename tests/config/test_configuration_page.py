"""docs/configuration.md is what the models of the sections say, and explains every key."""

import importlib.util
from pathlib import Path
from typing import Literal

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def generator():
    """docs/configuration.py, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("configuration", PAGE.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator):
    """If not, run `python docs/configuration.py`."""
    assert PAGE.read_text() == generator.reference()


def test_every_key_is_explained(generator):
    for heading, _, fields in generator.sections():
        for key, field in fields.items():
            assert field.description, f"{heading} {key}"


def test_keys_of_one_objective_are_listed_apart(generator):
    tables = {heading: set(fields) for heading, _, fields in generator.sections()}
    assert "beta" in tables['`[[training.phases]]` with `objective = "dpo"`']
    assert tables['`[[training.phases]]` with `objective = "sft"`'] == {"grouping"}
    assert {"name", "objective", "learning_rate"} < tables["`[[training.phases]]`"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int | None, "whole number"),
        (bool, "true or false"),
        (Literal["a", "b"], '`"a"`, `"b"`'),
        (tuple[str, ...], "list of texts"),
        (dict[str, tuple[str, ...]], "table of lists of texts"),
    ],
)
def test_types_in_plain_words(generator, kind, words):
    assert generator.type_name(kind) == words
