"""docs/configuration.md is up to date with the models of the sections, and explains every key."""

import importlib.util
from pathlib import Path

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
