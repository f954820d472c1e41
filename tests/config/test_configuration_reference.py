"""The reference of the configuration: what the models say, every key explained."""

import inspect
from pathlib import Path
from typing import Literal

import pytest

from tempo.config import load_config
from tempo.config.reference import in_words, reference, sections

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"

#: The name says it all.
PLAIN = {"epochs", "fps", "kinds"}


def test_the_document_is_what_the_models_say():
    """`python -m tempo.config.reference docs/configuration.md` would change nothing."""
    assert DOCUMENT.read_text() == reference()


@pytest.mark.parametrize(("heading", "model"), list(sections()), ids=str)
def test_every_key_is_explained_in_its_row_or_above_the_table(heading, model):
    assert f"## `{heading}`" in reference()
    above = inspect.getdoc(model)
    for key, field in model.model_fields.items():
        assert field.description or f"`{key}" in above or key in PLAIN, key


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
def test_types_in_plain_words(kind, words):
    assert in_words(kind) == words


def test_what_it_says_of_set_works(tmp_path):
    path = tmp_path / "tempo.toml"
    path.write_text("")
    config = load_config(path, ['videos.paths=["a", "b"]', "frames.fps=2", "model.device=cpu"])
    assert (config.videos.paths, config.frames.fps, config.model.device) == (("a", "b"), 2, "cpu")
