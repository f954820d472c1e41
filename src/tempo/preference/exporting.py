"""Pairs as a data set for other trainers: TRL, ms-swift, LLaMA-Factory, or Parquet.

Rows go from easy to hard: their order is the only curriculum that other trainers have. The column `tempo` has
the values for which a format has no column. All three trainers ignore columns that they do not know, and this
name is not one that they do (ms-swift reads `video` as `videos`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tempo import __version__
from tempo.core.files import write_json, write_lines
from tempo.core.records import Pair, Video
from tempo.core.store import RunStore, read_config
from tempo.preference.importing import ORIGIN, TAGS, VIDEO_TAG, Row
from tempo.video.frames import FrameStore

#: The names of `--format`.
FORMATS = ("trl", "ms-swift", "llama-factory", "parquet")

PAIRS_FILE = "pairs.jsonl"
PARQUET_FILE = "pairs.parquet"

#: Name of the data set in LLaMA-Factory's `dataset_info.json`.
LLAMA_FACTORY_NAME = "tempo_pairs"


def export_pairs(source: Path | str | Sequence[Pair], format_name: str, out: Path | str) -> int:
    """Writes a run's pairs, or a list of pairs, into the new folder `out`; returns how many.

    `format_name` is "trl", "ms-swift", "llama-factory" or "parquet". The folder is complete or absent. Raises
    ValueError for an unknown format, without pairs, or if a video that the format needs is gone.
    """
    if format_name not in FORMATS:
        raise ValueError(f"--format {format_name!r} is unknown; the formats are {', '.join(FORMATS)}")
    target = Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--out {out} exists already. Choose another folder, or remove it first")
    run = Path(source) if isinstance(source, Path | str) else None
    pairs = _read_pairs(Path(source)) if isinstance(source, Path | str) else source
    pairs = sorted(pairs, key=lambda pair: (-pair.level, pair.id))
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True)
        if format_name == "parquet":
            _write_parquet(pairs, folder, run)
        else:
            _write_jsonl(pairs, format_name, folder, target, run)
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
    return [pair.model_copy(update={"video": paths.get(pair.video_id, pair.video)}) for pair in pairs]


def _write_parquet(pairs: Sequence[Pair], folder: Path, run: Path | None) -> None:
    import pyarrow
    from datasets import Features, List, Value
    from pyarrow.parquet import write_table

    text, number = Value("string"), Value("int32")
    numbers = {"level": number, "num_clips": number, "order": List(number), "frames": List(number)}
    features = Features({name: numbers.get(name, text) for name in Pair.model_fields})
    rows = [pair.model_dump() for pair in pairs]
    write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), folder / PARQUET_FILE)
    _write_card(pairs, PARQUET_FILE, features, folder, run)


def _write_jsonl(
    pairs: Sequence[Pair], format_name: str, folder: Path, target: Path, run: Path | None
) -> None:
    """Writes the rows, and the files that describe them to the library that loads them."""
    images = _write_frames(pairs, folder, target, run) if format_name == "trl" else {}
    rows = [_row(pair, format_name, images) for pair in pairs]
    # `Dataset.to_json` would escape every slash of a path and write null for each key that a row lacks.
    write_lines(folder / PAIRS_FILE, (json.dumps(row, ensure_ascii=False) for row in rows))
    if format_name == "llama-factory":
        columns = {"messages": "conversations"} | {name: name for name in ("chosen", "rejected", "videos")}
        info = {"file_name": PAIRS_FILE, "formatting": "sharegpt", "ranking": True, "columns": columns}
        write_json(folder / "dataset_info.json", {LLAMA_FACTORY_NAME: info})
    if format_name == "trl":
        from datasets import Dataset, Image, List

        features = Dataset.from_list(rows).features
        # JSON only has their paths.
        features["images"] = List(Image())
        _write_card(pairs, PAIRS_FILE, features, folder, run)


def _row(pair: Pair, format_name: str, images: Mapping[str, list[str]]) -> Row:
    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    # `datasets` cannot infer the type of a list that is empty in every row.
    tempo = {name: value for name in ORIGIN if (value := getattr(pair, name)) != ()}
    if format_name == "trl":
        original = images[pair.video_id]
        return {
            "prompt": [message("user", pair.prompt)],
            "chosen": [message("assistant", pair.chosen)],
            "rejected": [message("assistant", pair.rejected)],
            "images": [original[number] for number in pair.frames] or original,
            "tempo": tempo,
        }
    _check_video_file(pair)
    prompt, videos = VIDEO_TAG + pair.prompt, [pair.video]
    if format_name == "ms-swift":
        messages = [message("user", prompt), message("assistant", pair.chosen)]
        return {"messages": messages, "rejected_response": pair.rejected, "videos": videos, "tempo": tempo}
    return {
        "conversations": [{"from": "human", "value": prompt}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": videos,
        "tempo": tempo,
    }


def _check_video_file(pair: Pair) -> None:
    """Raises ValueError for a pair that a trainer which opens the video file could not read."""
    text = "\n".join((pair.prompt, pair.chosen, pair.rejected))
    if pair.frames:
        fault = "it is about a perturbed video (pairs.mirror), of which there is no file"
    elif not os.path.isfile(pair.video):
        fault = f"{pair.video} is gone"
    elif found := [tag for tag in TAGS if tag in text]:
        fault = f"its text contains {found[0]}, for which this format expects a file"
    else:
        return
    raise ValueError(f"pair {pair.id!r}: {fault}. Export as trl or parquet")


def _write_frames(
    pairs: Sequence[Pair], folder: Path, target: Path, run: Path | None
) -> dict[str, list[str]]:
    """Writes the frames of each video once; returns their absolute paths at the target, by video id."""
    if run is None:
        raise ValueError("the format 'trl' needs the frames of a run. Give the directory of a run")
    store, images = FrameStore(run / "frames"), {}
    for video_id in {pair.video_id for pair in pairs}:
        if not store.has(video_id):
            raise ValueError(
                f"the frames of video {video_id} are gone from {store.directory}. Make them again"
            )
        (folder / "frames" / video_id).mkdir(parents=True)
        jpegs = {f"frames/{video_id}/{i:04d}.jpg": jpeg for i, jpeg in enumerate(store.read(video_id).jpegs)}
        for name, jpeg in jpegs.items():
            (folder / name).write_bytes(jpeg)
        images[video_id] = [str(target / name) for name in jpegs]
    return images


def _write_card(pairs: Sequence[Pair], file: str, features: Any, folder: Path, run: Path | None) -> None:
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
        has_images="images" in features,
        pairs=pairs,
        counts=Counter((pair.kind, pair.level) for pair in pairs),
        levels=sorted({pair.level for pair in pairs}, reverse=True),
        config=read_config(run) if run else {},
        version=__version__,
    )
    card.save(folder / "README.md")
