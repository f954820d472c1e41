"""The model cards of a run: `README.md` in `model/` and `adapter/`, in the format of the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

import tomli_w

from tempo import __version__
from tempo.core.files import count_lines
from tempo.core.records import Pair
from tempo.core.store import RunStore, count_skipped
from tempo.engine.types import Context
from tempo.evaluation.figures import read_tables
from tempo.model.loading import resolve_model_path
from tempo.preference.exporting import count_pairs, markdown_table
from tempo.report.report import COUNTED_STAGES


def write_cards(context: Context) -> None:
    """Writes the card of `model/` and of `adapter/`. Cards contain no folders and no server address."""
    from huggingface_hub import ModelCard, ModelCardData

    config, about = context.config, _about(context)
    base = base_card(config.model.path)
    fields = ("license", "license_name", "license_link")
    license = {name: base[name] for name in fields if base.get(name)}
    hub_name = config.model.path if is_hub_name(config.model.path) else base.get("base_model")
    for folder, library in (("model", "transformers"), ("adapter", "peft")):
        if not (context.directory / folder).is_dir():
            continue
        data = ModelCardData(
            base_model=hub_name,
            base_model_relation=hub_name and ("finetune" if folder == "model" else "adapter"),
            library_name=library,
            pipeline_tag="video-text-to-text",
            tags=["video", "dpo", "temporal-understanding", "tempo"],
            **license,
        )
        template = str(Path(__file__).parent / "templates" / "model_card.md.jinja")
        card = ModelCard.from_template(data, template, folder=folder, license=license, **about)
        card.save(context.directory / folder / "README.md")


def _about(context: Context) -> dict[str, Any]:
    """What the card says besides its header, from the files of the run."""
    store, run, config = RunStore(context.directory), context.directory, context.config
    skipped = [
        [f"{stage}: {reason}", str(found.num_records)]
        for (stage, reason), found in sorted(count_skipped(store).items())
    ]
    audit = run / "audit.json"
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    private = {"endpoint": {"url", "api_key_env"}}
    settings = config.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude=private)
    return {
        "name": Path(config.model.path).name,
        "config": config,
        "version": __version__,
        "tables": {name: markdown_table(rows) for name, rows in read_tables(run).items()},
        "phases": markdown_table(_phase_rows(context)),
        "stages": {name: store.count(name) for name in COUNTED_STAGES},
        "pairs": markdown_table(count_pairs(store.stream("pairs", Pair))),
        "skipped": markdown_table([["skipped", "records"], *skipped]),
        "verdict": json.loads(audit.read_text(encoding="utf-8"))["verdict"] if audit.exists() else "",
        "settings": tomli_w.dumps(without_folders(settings)),
        "versions": environment["versions"],
    }


def _phase_rows(context: Context) -> list[list[str]]:
    """The finished phases as rows of text, headings first."""
    keys = ("learning_rate", "epochs", "batch_size", "lora_rank", "beta", "nll_weight")
    names = ("phase", "objective", "pairs of level", "examples", "steps", *keys)
    rows = [[name.replace("_", " ") for name in names]]
    for path in sorted(context.directory.glob("train/*/done.json")):
        done = json.loads(path.read_text(encoding="utf-8"))
        phase, num_steps = done["phase"], count_lines(path.with_name("metrics.jsonl"))
        levels = ", ".join(map(str, phase.get("levels", ()))) or ("all" if "levels" in phase else "-")
        cells = [phase["name"], phase["objective"], levels, done["num_examples"], num_steps]
        rows.append([str(cell) for cell in (*cells, *(phase.get(key, "-") for key in keys))])
    return rows


def is_hub_name(path: str) -> bool:
    """Whether a model is a name on the hub and not a directory."""
    return not Path(resolve_model_path(path)).exists()


def base_card(path: str) -> dict[str, Any]:
    """The header of the base model's card, from its directory or the cache of the hub; empty without one."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    found = try_to_load_from_cache(path, "README.md") if is_hub_name(path) else None
    file = Path(found) if isinstance(found, str) else Path(resolve_model_path(path)) / "README.md"
    try:
        return ModelCard.load(file).data.to_dict()  # type: ignore[no-any-return]
    # The card was written by others: it may be missing or have no valid header.
    except (OSError, ValueError):
        return {}


def without_folders(value: Any) -> Any:
    """Settings in which paths are reduced to their last part; names such as `owner/model` are kept."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", ".")) else value
