"""Pairs as a data set for other trainers: TRL, ms-swift, LLaMA-Factory, or Parquet.

Rows are sorted from easy to hard: their order is the only curriculum that other trainers know. The column
`tempo`, which the three trainers ignore, has the values that their formats have no column for.
"""

import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tempo import __version__
from tempo.core.files import write_json, write_lines
from tempo.core.records import Pair
from tempo.core.store import RunStore, read_config
from tempo.preference.importing import ORIGIN, TAGS, VIDEO_TAG, Row
from tempo.video.frames import FrameStore

#: The values of `--format`.
FORMATS = ("trl", "ms-swift", "llama-factory", "parquet")

PAIRS_FILE = "pairs.jsonl"


def export_pairs(
    source: Path | str | Sequence[Pair], format_name: str, out: Path | str, *, push_to: str = ""
) -> int:
    """Writes a run's pairs, or a list of pairs, into the new folder `out`; returns their number.

    `format_name` is "trl", "ms-swift", "llama-factory" or "parquet". `push_to` is the name of a data set on
    the Hugging Face hub, private if it is new, to which the folder is uploaded ("parquet" only); its pairs
    name videos without their folders. Raises ValueError for an unknown format, if there are no pairs, or if a
    video that the format needs is missing, and leaves no folder; also if the hub refuses the folder.
    """
    if format_name not in FORMATS:
        raise ValueError(f"--format {format_name!r} is unknown. The formats are {', '.join(FORMATS)}")
    if push_to and format_name != "parquet":
        raise ValueError(f"--push-to needs --format parquet: {format_name!r} refers to files on this machine")
    target = Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--out {out} already exists. Choose another folder, or remove it first")
    run = Path(source) if isinstance(source, Path | str) else None
    pairs = [*source] if not isinstance(source, Path | str) else RunStore(Path(source)).read("pairs", Pair)
    if not pairs:
        raise ValueError(f"{source} has no pairs to export. `tempo status` shows what a run has")
    place = os.path.basename if push_to else os.path.abspath
    pairs = [pair.model_copy(update={"video": pair.video and place(pair.video)}) for pair in pairs]
    pairs.sort(key=lambda pair: (-pair.level, pair.id))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            folder = Path(temporary, "out")
            folder.mkdir()
            if format_name == "parquet":
                _write_parquet(pairs, folder, run)
            else:
                _write_jsonl(pairs, format_name, folder, target, run)
            # This also replaces an empty folder.
            os.replace(folder, target)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from None
    if push_to:
        _push(target, push_to)
    return len(pairs)


def _push(folder: Path, name: str) -> None:
    """Uploads a folder to a data set on the Hugging Face hub; raises ValueError."""
    from huggingface_hub import HfApi

    try:
        hub = HfApi(token=True)
        hub.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder)
    # The client also raises errors of its HTTP library.
    except Exception as error:
        retry = f"hf upload {name} {folder} --repo-type dataset --private"
        raise ValueError(f"--push-to {name}: {error}. The pairs are in {folder}; upload: {retry}") from error


def _write_parquet(pairs: Sequence[Pair], folder: Path, run: Path | None) -> None:
    import pyarrow
    from datasets import Features, List, Value
    from pyarrow.parquet import write_table

    text, number = Value("string"), Value("int32")
    numbers = {"level": number, "num_clips": number, "order": List(number), "frames": List(number)}
    numbers |= {"span": List(Value("float64"))}
    features = Features({name: numbers.get(name, text) for name in Pair.model_fields})
    rows = [pair.model_dump() for pair in pairs]
    write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), folder / "pairs.parquet")
    _write_card(pairs, "pairs.parquet", features, folder, run)


def _write_jsonl(
    pairs: Sequence[Pair], format_name: str, folder: Path, target: Path, run: Path | None
) -> None:
    images = _write_frames(pairs, folder, target, run) if format_name == "trl" else {}
    rows = [_row(pair, format_name, images) for pair in pairs]
    # `Dataset.to_json` would escape every slash in a path and write null for each key that a row lacks.
    write_lines(folder / PAIRS_FILE, (json.dumps(row, ensure_ascii=False) for row in rows))
    if format_name == "llama-factory":
        columns = {"messages": "conversations"} | {name: name for name in ("chosen", "rejected", "videos")}
        info = {"file_name": PAIRS_FILE, "formatting": "sharegpt", "ranking": True, "columns": columns}
        write_json(folder / "dataset_info.json", {"tempo_pairs": info})
    if format_name == "trl":
        from datasets import Dataset, Image, List

        features = Dataset.from_list(rows).features
        # In JSON, images are only paths.
        features["images"] = List(Image())
        _write_card(pairs, PAIRS_FILE, features, folder, run)


def _row(pair: Pair, format_name: str, images: Mapping[str, list[str]]) -> Row:
    def messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in turns]

    # `datasets` cannot infer the type of a list that is empty in all rows.
    tempo = {name: value for name in ORIGIN if (value := getattr(pair, name)) != ()}
    system = [("system", pair.system)] if pair.system else []
    chosen, rejected = ("assistant", pair.chosen), ("assistant", pair.rejected)
    if format_name == "trl":
        original = images[pair.video_id]
        return {
            "prompt": messages(*system, ("user", pair.prompt)),
            "chosen": messages(chosen),
            "rejected": messages(rejected),
            "images": [original[number] for number in pair.frames] or original,
            "tempo": tempo,
        }
    _check_video(pair)
    asked, files = [*system, ("user", VIDEO_TAG + pair.prompt)], {"videos": [pair.video], "tempo": tempo}
    if format_name == "ms-swift":
        return {"messages": messages(*asked, chosen), "rejected_response": pair.rejected, **files}
    names = {"user": "human", "system": "system"}
    return {
        "conversations": [{"from": names[role], "value": text} for role, text in asked],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        **files,
    }


def _check_video(pair: Pair) -> None:
    """Raises ValueError for a pair that a trainer which opens the video file itself would misread."""
    texts = " ".join((pair.system, pair.prompt, pair.chosen, pair.rejected))
    tag = next((tag for tag in TAGS if tag in texts), "")
    faults = {
        "is about a perturbed video (pairs.mirror)": pair.frames,
        "is about a segment of its video (clips.segments)": pair.span,
        f"contains {tag}, which the format reserves for files": tag,
        f"needs {pair.video}, which is missing": not os.path.isfile(pair.video),
    }
    if fault := next((fault for fault, applies in faults.items() if applies), ""):
        raise ValueError(f"pair {pair.id!r} {fault}. Export as trl or parquet")


def _write_frames(
    pairs: Sequence[Pair], folder: Path, target: Path, run: Path | None
) -> dict[str, list[str]]:
    """Writes the frames of each video once; returns their absolute paths in the target, by video id."""
    if run is None:
        raise ValueError("the format 'trl' needs the frames of a run. Give the directory of a run")
    store, images = FrameStore(run / "frames"), defaultdict[str, list[str]](list)
    for video_id in {pair.video_id for pair in pairs}:
        if not store.has(video_id):
            raise ValueError(f"the frames of video {video_id} are missing from {store.directory}")
        (folder / "frames" / video_id).mkdir(parents=True)
        for number, jpeg in enumerate(store.read(video_id).jpegs):
            name = f"frames/{video_id}/{number:04d}.jpg"
            (folder / name).write_bytes(jpeg)
            images[video_id].append(str(target / name))
    return images


def _write_card(pairs: Sequence[Pair], file: str, features: Any, folder: Path, run: Path | None) -> None:
    """Writes README.md with a header for `datasets` and the Hugging Face hub."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCard, DatasetCardData

    header = DatasetCardData()
    DatasetInfosDict({"default": DatasetInfo(features=features)}).to_dataset_card_data(header)
    card = DatasetCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        file=file,
        has_images="images" in features,
        pairs=pairs,
        counts=markdown_table(count_pairs(pairs)),
        config=read_config(run) if run else {},
        version=__version__,
    )
    card.save(folder / "README.md")


def count_pairs(pairs: Iterable[Pair]) -> list[list[str]]:
    """The numbers of pairs by kind and level as rows of text, headings first."""
    counts = Counter((pair.kind, pair.level) for pair in pairs)
    levels = sorted({level for _, level in counts}, reverse=True)
    rows = [["kind", *(f"level {level}" if level else "no level" for level in levels), "all"]]
    for kind in sorted({kind for kind, _ in counts}):
        numbers = [counts[kind, level] for level in levels]
        rows.append([kind, *map(str, [*numbers, sum(numbers)])])
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, headings first, as a table in Markdown."""
    first, *others = ("| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" for row in rows)
    return "\n".join([first, "| --- " * len(rows[0]) + "|", *others])
