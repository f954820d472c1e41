"""Pairs as a data set for other trainers: TRL, ms-swift, LLaMA-Factory, or Parquet.

Rows go from easy to hard: their order is the only curriculum that other trainers have. The column `tempo` has
what a format has no column for. All three trainers ignore columns that they do not know, and this name is not
one that they do (ms-swift reads `video` as `videos`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo import __version__
from tempo.core.files import write_json, write_lines
from tempo.core.records import Pair, Video
from tempo.core.store import RunStore, read_config
from tempo.preference.importing import ORIGIN, TAGS, VIDEO_TAG, Row
from tempo.video.frames import FrameStore

PAIRS_FILE = "pairs.jsonl"
PARQUET_FILE = "pairs.parquet"

#: Name of the data set in LLaMA-Factory's `dataset_info.json`.
LLAMA_FACTORY_NAME = "tempo_pairs"


@dataclass(frozen=True)
class Export:
    """What a writer is given: it writes into `folder`, which will be renamed to `target`.

    `run` is None for pairs without a run. The `video` of the pairs is an absolute path.
    """

    run: Path | None
    folder: Path
    target: Path
    pairs: Sequence[Pair]


def export_pairs(source: Path | str | Sequence[Pair], format_name: str, out: Path | str) -> int:
    """Writes a run's pairs, or a list of pairs, into the new folder `out`; returns how many.

    `format_name` is "trl", "ms-swift", "llama-factory" or "parquet". The folder is complete or absent. Raises
    ValueError for an unknown format, without pairs, or if a video that the format needs is gone.
    """
    target = Path(os.path.abspath(out))
    if format_name not in WRITERS:
        raise ValueError(f"--format {format_name!r} is unknown; the formats are {', '.join(WRITERS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--out {out} exists already. Choose another folder, or remove it first")
    run = Path(source) if isinstance(source, Path | str) else None
    pairs = _read_pairs(Path(source)) if isinstance(source, Path | str) else list(source)
    pairs = sorted(pairs, key=lambda pair: (-pair.level, pair.id))
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True)
        WRITERS[format_name](Export(run, folder, target, pairs))
        # An empty folder may be there: the file system replaces it in one step.
        os.replace(folder, target)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return len(pairs)


def _read_pairs(run: Path) -> list[Pair]:
    """The pairs of a run, with the present paths of their videos."""
    store = RunStore(run)
    if not store.is_done("pairs"):
        raise ValueError(f"{run} has no pairs yet: its stage 'pairs' is not done. `tempo run` makes them")
    pairs = store.read("pairs", Pair)
    if not pairs:
        raise ValueError(f"{run} has no pair to export. `tempo status {run}` shows why they were skipped")
    paths = {video.id: os.path.abspath(video.path) for video in store.read("videos", Video)}
    for pair in pairs:
        if pair.video_id not in paths:
            raise ValueError(f"pair {pair.id!r}: {pair.video} is not among the videos of {run}")
    return [pair.model_copy(update={"video": paths[pair.video_id]}) for pair in pairs]


def _write_ms_swift(export: Export) -> None:
    _write_rows(export, [ms_swift_row(_with_file(pair)) for pair in export.pairs])


def _write_llama_factory(export: Export) -> None:
    _write_rows(export, [llama_factory_row(_with_file(pair)) for pair in export.pairs])
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "videos": "videos"}
    description = {"file_name": PAIRS_FILE, "formatting": "sharegpt", "ranking": True, "columns": columns}
    write_json(export.folder / "dataset_info.json", {LLAMA_FACTORY_NAME: description})


def _with_file(pair: Pair) -> Pair:
    """The pair; raises ValueError if its video is not a file, because the trainer would open it."""
    if pair.frames:
        raise ValueError(
            f"pair {pair.id!r} is about a perturbed video (pairs.mirror), of which there is no file. Export "
            "as trl or parquet, or make the pairs without pairs.mirror"
        )
    if not os.path.isfile(pair.video):
        raise ValueError(f"pair {pair.id!r}: {pair.video} is gone. Restore it, or export as trl or parquet")
    return pair


def _write_trl(export: Export) -> None:
    """Writes frames once per video; `datasets` opens paths as they are, so they are absolute."""
    from datasets import Dataset, Image, List

    if export.run is None:
        raise ValueError("the format 'trl' needs the frames of a run. Give the directory of a run")
    store = FrameStore(export.run / "frames")
    images = {name: _write_frames(store, name, export) for name in {pair.video_id for pair in export.pairs}}
    rows = []
    for pair in export.pairs:
        original = images[pair.video_id]
        rows.append(trl_row(pair, [original[number] for number in pair.frames] or original))
    _write_rows(export, rows)
    features = Dataset.from_list(rows).features
    # JSON only has their paths.
    features["images"] = List(Image())
    _write_card(export, "trl", PAIRS_FILE, features)


def _write_frames(store: FrameStore, video_id: str, export: Export) -> list[str]:
    """Writes the frames of a video; returns the paths that they will have at the target."""
    if not store.has(video_id):
        raise ValueError(f"the frames of video {video_id} are gone from {store.directory}. Make them again")
    place = Path("frames", video_id)
    (export.folder / place).mkdir(parents=True)
    names = []
    for number, jpeg in enumerate(store.read(video_id).jpegs):
        names.append(str(export.target / place / f"{number:04d}.jpg"))
        (export.folder / place / f"{number:04d}.jpg").write_bytes(jpeg)
    return names


def _write_parquet(export: Export) -> None:
    import pyarrow
    from datasets import Features, List, Value
    from pyarrow.parquet import write_table

    text, number = Value("string"), Value("int32")
    numbers = {"level": number, "num_clips": number, "order": List(number), "frames": List(number)}
    features = Features({name: numbers.get(name, text) for name in Pair.model_fields})
    rows = [pair.model_dump() for pair in export.pairs]
    write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), export.folder / PARQUET_FILE)
    _write_card(export, "parquet", PARQUET_FILE, features)


#: What each format's trainer loads; the names are those of `--format`.
WRITERS: dict[str, Callable[[Export], None]] = {
    "trl": _write_trl,
    "ms-swift": _write_ms_swift,
    "llama-factory": _write_llama_factory,
    "parquet": _write_parquet,
}


def _write_rows(export: Export, rows: Sequence[Row]) -> None:
    # `Dataset.to_json` would escape every slash of a path and write null for each key that a row lacks.
    write_lines(export.folder / PAIRS_FILE, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write_card(export: Export, format_name: str, file: str, features: Any) -> None:
    """Writes README.md, whose header `datasets` and the Hugging Face hub read."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCard, DatasetCardData

    header = DatasetCardData(
        pretty_name="Temporal preference pairs",
        task_categories=["video-text-to-text"],
        tags=["video", "preference", "dpo", "temporal-understanding", "tempo"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": file}]}],
    )
    DatasetInfosDict({"default": DatasetInfo(features=features)}).to_dataset_card_data(header)
    card = DatasetCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        format_name=format_name,
        pairs=export.pairs,
        counts=Counter((pair.kind, pair.level) for pair in export.pairs),
        levels=sorted({pair.level for pair in export.pairs}, reverse=True),
        config=read_config(export.run) if export.run else {},
        version=__version__,
    )
    card.save(export.folder / "README.md")


def ms_swift_row(pair: Pair) -> Row:
    """`messages` that end with the chosen answer, `rejected_response`, `videos`; ValueError as `_tagged`."""
    return {
        "messages": [_message("user", _tagged(pair)), _message("assistant", pair.chosen)],
        "rejected_response": pair.rejected,
        "videos": [pair.video],
        "tempo": origin_of(pair),
    }


def llama_factory_row(pair: Pair) -> Row:
    """`conversations` (the question), `chosen`, `rejected`, `videos`; ValueError as `_tagged`."""
    return {
        "conversations": [{"from": "human", "value": _tagged(pair)}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": [pair.video],
        "tempo": origin_of(pair),
    }


def trl_row(pair: Pair, images: Sequence[str]) -> Row:
    """`prompt`, `chosen` and `rejected` as messages, and frames as `images`: TRL 1.16 takes no videos."""
    return {
        "prompt": [_message("user", pair.prompt)],
        "chosen": [_message("assistant", pair.chosen)],
        "rejected": [_message("assistant", pair.rejected)],
        "images": list(images),
        "tempo": origin_of(pair),
    }


def origin_of(pair: Pair) -> Row:
    """The value of the column `tempo`."""
    # `datasets` cannot infer the type of a list that is empty in every row.
    return {name: value for name in ORIGIN if (value := getattr(pair, name)) != ()}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _tagged(pair: Pair) -> str:
    """The prompt after its video tag; raises ValueError if a text of the pair contains a media tag."""
    for text in (pair.prompt, pair.chosen, pair.rejected):
        if found := [tag for tag in TAGS if tag in text]:
            raise ValueError(
                f"pair {pair.id!r} contains {found[0]} in its text, for which this format expects a file. "
                "Export as trl or parquet"
            )
    return VIDEO_TAG + pair.prompt
