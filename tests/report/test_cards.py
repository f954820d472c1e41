"""The model cards: what the hub reads, what the run did, and nothing private."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from sample_material import context_of, pair_of

from tempo.config import DpoPhase
from tempo.core.files import write_json, write_lines
from tempo.core.records import Skipped
from tempo.core.store import RunStore
from tempo.evaluation.figures import Item, make_figure
from tempo.report.cards import write_cards

PHASE = {"name": "easy", "objective": "dpo", "levels": [8], "learning_rate": 5e-6}
SERVER = {"url": "http://secret.host:8000/v1", "model": "served", "api_key_env": "SECRET_KEY"}


@pytest.fixture
def context(tmp_path):
    """A trained and evaluated run of a checkpoint with a card."""
    base, run = tmp_path / "private" / "my-base", tmp_path / "run"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    header = "license: other\nlicense_name: tongyi\nbase_model: Qwen/Qwen2.5-VL-7B"
    (base / "README.md").write_text(f"---\n{header}\n---\n# Base\n")
    pair = pair_of("v", "reverse", 8, video="/private/v.mp4")
    RunStore(run).append("pairs", [pair, Skipped(id="w", stage="clips", reason="too few shots")])
    phase = DpoPhase.model_validate(PHASE).model_dump(mode="json")
    write_json(run / "train" / "01-easy" / "done.json", {"phase": phase, "num_examples": 1})
    write_lines(run / "train" / "01-easy" / "metrics.jsonl", ['{"step": 1}', '{"step": 2}'])
    items = {name: [Item("q", "v", share)] for name, share in (("base", 0.0), ("tempo", 1.0))}
    figure = make_figure("held-out videos", "order from own words", items, seed=0)
    write_json(run / "evaluation.json", {"figures": [figure.model_dump(mode="json")], "notes": []})
    write_json(run / "environment.json", {"versions": {"torch": "2.13.0"}})
    for folder in ("model", "adapter"):
        write_json(run / folder / "config.json", {})
    sections = {"model": {"path": str(base)}, "endpoint": SERVER, "videos": {"paths": ["/private/films"]}}
    return context_of(run, **sections, training={"phases": [PHASE]})


def test_the_card_states_base_licence_data_phases_and_figures(context):
    write_cards(context)
    card = ModelCard.load(context.directory / "model" / "README.md")
    assert card.data.base_model == "Qwen/Qwen2.5-VL-7B"
    assert (card.data.license, card.data.license_name) == ("other", "tongyi")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "video-text-to-text")
    for row in (
        "| order from own words | 1 | 0.0 | 100.0 | +100.0 |",
        "| reverse | 1 | 1 |",
        "| clips: too few shots | 1 |",
        "| easy | dpo | 8 | 1 | 2 | 5e-06 |",
        "torch 2.13.0",
        'path = "my-base"',
    ):
        assert row in card.content
    adapter = ModelCard.load(context.directory / "adapter" / "README.md")
    assert (adapter.data.library_name, adapter.data.base_model_relation) == ("peft", "adapter")


def test_the_card_has_no_folder_of_this_machine_and_no_server_and_is_the_same_twice(context):
    texts = []
    for _ in range(2):
        write_cards(context)
        texts.append((context.directory / "model" / "README.md").read_text())
    text, again = texts
    assert text == again
    assert not [word for word in ("private/", "secret.host", "SECRET_KEY") if word in text]
    assert '"films"' in text


def test_without_a_card_of_the_base_no_licence_is_claimed_and_only_folders_that_exist_get_one(context):
    (context.directory / "adapter" / "config.json").unlink()
    (context.directory / "adapter").rmdir()
    model = context.config.model.model_copy(update={"path": "owner/on-the-hub"})
    context = replace(context, config=context.config.model_copy(update={"model": model}))
    write_cards(context)
    card = ModelCard.load(context.directory / "model" / "README.md")
    assert (card.data.base_model, card.data.license) == ("owner/on-the-hub", None)
    assert "add `license` to the header" in card.content
    assert not (context.directory / "adapter").exists()
