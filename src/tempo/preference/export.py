"""The pairs of a run as data for other trainers: TRL, ms-swift, LLaMA-Factory, or a Parquet data set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempo.core.records import Pair, Video
from tempo.core.store import RunStore, write_json, write_lines, write_text
from tempo.preference.cards import parquet_card, trl_card
from tempo.preference.conversations import Row
from tempo.preference.formats import llama_factory_row, ms_swift_row, trl_row
from tempo.video.find import present_path
from tempo.video.frames import FrameStore

PAIRS_FILE = "pairs.jsonl"
PARQUET_FILE = "pairs.parquet"

#: Name of the data set in LLaMA-Factory's `dataset_info.json`.
LLAMA_FACTORY_NAME = "tempo_pairs"


@dataclass(frozen=True)
class Job:
    """What a format's writer is given: it writes into `folder`, which will lie at `target`.

    `pairs` are sorted from easy to hard: the order of the file is the only curriculum other trainers have.
    """

    run: Path
    folder: Path
    target: Path
    pairs: Sequence[Pair]
    videos: Mapping[str, str]


def export_pairs(directory: Path, format_name: str, out: Path) -> int:
    """Writes the folder `out` and returns the number of pairs in it; it appears whole or not at all.

    Raises ValueError if there is no such format, no pair, or a video that the format needs is gone.
    """
    if format_name not in WRITERS:
        raise ValueError(f"--format {format_name!r} is not known; the formats are {', '.join(WRITERS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists already; choose another, or remove it first")
    pairs = _read_pairs(directory)
    target = Path(os.path.abspath(out))
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True)
        WRITERS[format_name](Job(directory, folder, target, pairs, _video_paths(directory, pairs)))
        # An empty folder may stand there; a file system replaces it in one step.
        os.replace(folder, target)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return len(pairs)


def _read_pairs(directory: Path) -> list[Pair]:
    store = RunStore(directory)
    if not store.is_done("pairs"):
        raise ValueError(f"{directory} has no pairs yet: its stage 'pairs' is not done; `tempo run` does it")
    pairs = store.read("pairs", Pair)
    if not pairs:
        raise ValueError(
            f"{directory} has no pair to export; `tempo status {directory}` says what dropped them"
        )
    return sorted(pairs, key=lambda pair: (-pair.level, pair.id))


def _video_paths(directory: Path, pairs: Iterable[Pair]) -> dict[str, str]:
    """The path of each video by id, absolute; raises ValueError for a pair whose video the run lacks."""
    videos = RunStore(directory).read("videos", Video)
    paths = {video.id: os.path.abspath(present_path(video)) for video in videos}
    for pair in pairs:
        if pair.video_id not in paths:
            raise ValueError(
                f"pair {pair.id!r} is about {pair.video}, which is not among the videos of {directory}"
            )
    return paths


def _write_ms_swift(job: Job) -> None:
    _write_rows(job, (ms_swift_row(pair, _present(pair, job)) for pair in job.pairs))


def _write_llama_factory(job: Job) -> None:
    _write_rows(job, (llama_factory_row(pair, _present(pair, job)) for pair in job.pairs))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "videos": "videos"}
    description = {"file_name": PAIRS_FILE, "formatting": "sharegpt", "ranking": True, "columns": columns}
    write_json(job.folder / "dataset_info.json", {LLAMA_FACTORY_NAME: description})


def _write_trl(job: Job) -> None:
    """Frames are written once per video; `datasets` opens paths as they are, so they are absolute."""
    frames = FrameStore(job.run / "frames")
    ids = sorted({pair.video_id for pair in job.pairs})
    images = {video_id: _write_frames(frames, video_id, job) for video_id in ids}
    _write_rows(job, (trl_row(pair, _shown(pair, images[pair.video_id])) for pair in job.pairs))
    write_text(job.folder / "README.md", trl_card(job.run, job.pairs, PAIRS_FILE))


def _shown(pair: Pair, images: Sequence[str]) -> Sequence[str]:
    """The frames that the pair is about, of those of its video as filmed."""
    return [images[number] for number in pair.frames] or images


def _write_frames(frames: FrameStore, video_id: str, job: Job) -> list[str]:
    """The paths that the frames of a video will have at the target."""
    if not frames.has(video_id):
        raise ValueError(f"the frames of video {video_id} are gone from {frames.directory}; make them again")
    place = Path("frames", video_id)
    (job.folder / place).mkdir(parents=True)
    names = []
    for number, jpeg in enumerate(frames.read_jpegs(video_id)):
        names.append(str(job.target / place / f"{number:04d}.jpg"))
        (job.folder / place / f"{number:04d}.jpg").write_bytes(jpeg)
    return names


def _write_parquet(job: Job) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("--format parquet needs pyarrow: pip install '.[parquet]' in the checkout") from None
    rows = [{**pair.model_dump(), "video": job.videos[pair.video_id]} for pair in job.pairs]
    text, number = pyarrow.string(), pyarrow.int32()
    types = {
        "level": number,
        "num_clips": number,
        "order": pyarrow.list_(number),
        "frames": pyarrow.list_(number),
    }
    schema = pyarrow.schema([(name, types.get(name, text)) for name in Pair.model_fields])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), job.folder / PARQUET_FILE)
    write_text(job.folder / "README.md", parquet_card(job.run, job.pairs, PARQUET_FILE))


#: What each format's trainer loads; the names are what `--format` takes.
WRITERS: dict[str, Callable[[Job], None]] = {
    "trl": _write_trl,
    "ms-swift": _write_ms_swift,
    "llama-factory": _write_llama_factory,
    "parquet": _write_parquet,
}


def _write_rows(job: Job, rows: Iterable[Row]) -> None:
    write_lines(job.folder / PAIRS_FILE, (json.dumps(row, ensure_ascii=False) for row in rows))


def _present(pair: Pair, job: Job) -> str:
    """The path of a pair's video; raises ValueError if the file is gone, for the trainer would open it."""
    if pair.frames:
        raise ValueError(
            f"pair {pair.id!r} is about a perturbed video (pairs.mirror), for which there is no file; export "
            "as trl or parquet, or make the pairs without pairs.mirror"
        )
    path = job.videos[pair.video_id]
    if not os.path.isfile(path):
        raise ValueError(
            f"pair {pair.id!r}: its video {path} is gone; put it back, or export as trl or parquet"
        )
    return path
