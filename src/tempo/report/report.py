"""One self-contained page: film strips, pairs, training curves, accuracies."""

from __future__ import annotations

import base64
import difflib
import html
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tempo.core.records import Captions, Clips, Pair, Shots
from tempo.core.store import RunStore, count_skipped, write_text
from tempo.engine.types import Context
from tempo.evaluation.benchmark import percent
from tempo.preference.perturbations import kendall_distance
from tempo.report.audit_table import audit_cells
from tempo.video.frames import FrameStore

#: Height of a picture on the page, in pixels.
PICTURE_HEIGHT = 72


def write_report(context: Context) -> Path:
    """Writes `report.html` and returns its path."""
    from jinja2 import Environment, PackageLoader

    # Not select_autoescape(): it goes by the ending, and does nothing for `.html.jinja`.
    environment = Environment(loader=PackageLoader("tempo.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.jinja").render(**report_data(context))
    path = context.directory / "report.html"
    write_text(path, page)
    return path


def report_data(context: Context) -> dict[str, Any]:
    """Everything that the page shows, ready to print."""
    store = RunStore(context.directory)
    clips = {row.id: row for row in store.read("clips", Clips)}
    pairs = store.read("pairs", Pair)
    return {
        "directory": context.directory.name,
        "model": context.config.model.path,
        "counts": _counts(store, pairs),
        "drops": _drops(store),
        "videos": _videos(context, store, clips),
        "pairs": _pairs(context, pairs, clips),
        "audit": _audit(context.directory),
        "curves": _curves(context.directory),
        "evaluation": _evaluation(context.directory),
    }


def _counts(store: RunStore, pairs: Sequence[Pair]) -> dict[str, Any]:
    names = ("videos", "shots", "clips", "captions", "responses", "pairs")
    counts = {
        name: store.path(name).read_bytes().count(b"\n") if store.path(name).exists() else 0 for name in names
    }
    by_kind = Counter((pair.kind, pair.level) for pair in pairs)
    levels = sorted({level for _, level in by_kind}, reverse=True)
    kinds = sorted({kind for kind, _ in by_kind})
    return {
        "stages": counts,
        "levels": levels,
        "kinds": {kind: [by_kind[kind, level] for level in levels] for kind in kinds},
    }


def _drops(store: RunStore) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "reason": reason, "count": count, "example": example}
        for (stage, reason), (count, example) in sorted(count_skipped(store).items())
    ]


def _videos(context: Context, store: RunStore, clips: dict[str, Clips]) -> list[dict[str, Any]]:
    """Film strips of the first videos: clips in order, each with its key frames, shots and caption."""
    frames = FrameStore(context.directory / "frames")
    captions = {row.id: row.captions for row in store.read("captions", Captions)}
    shown = list(clips.values())[: context.config.report.num_videos]
    wanted = {row.id for row in shown}
    shots = {row.id: row.shots for row in store.read("shots", Shots) if row.id in wanted}
    return [
        {
            "name": Path(row.path).name,
            "id": row.id,
            "num_shots": len(shots[row.id]),
            "clips": _clip_cells(row, frames, captions.get(row.id, ())),
        }
        for row in shown
    ]


def _clip_cells(row: Clips, frames: FrameStore, captions: Sequence[str]) -> list[dict[str, Any]]:
    pictures = [picture_source(picture) for picture in frames.read_key_frames(row.id)]
    cells = []
    start = 0
    for index, clip in enumerate(row.clips):
        end = start + len(clip.key_frames)
        cells.append(
            {
                "number": index,
                "group": clip.group,
                "num_shots": clip.num_shots,
                "span": f"{clip.start_seconds:.1f} - {clip.end_seconds:.1f} s",
                "pictures": pictures[start:end],
                "caption": captions[index] if index < len(captions) else "",
            }
        )
        start = end
    return cells


def _pairs(context: Context, pairs: Sequence[Pair], clips: dict[str, Clips]) -> list[dict[str, Any]]:
    """Some pairs of different kinds and levels; the clips are joined by video id, never by position."""
    frames = FrameStore(context.directory / "frames")
    return [
        {
            "id": pair.id,
            "name": Path(pair.video).name,
            "kind": pair.kind,
            "level": pair.level,
            "prompt": pair.prompt,
            "difficulty": _difficulty(pair),
            "as_filmed": _strip(frames, clips.get(pair.video_id), range(pair.num_clips), set(pair.order)),
            "as_shown": _strip(frames, clips.get(pair.video_id), pair.order, set(pair.order)),
            "chosen": _marked(pair.chosen, pair.rejected),
            "rejected": _marked(pair.rejected, pair.chosen),
        }
        for pair in choose_pairs(pairs, context.config.report.num_pairs)
    ]


def _difficulty(pair: Pair) -> str:
    """How far the perturbation is from the original order; an identity of the rule `paper` is named.

    Empty for a pair made elsewhere, whose order is not known.
    """
    if not pair.order:
        return ""
    if pair.order == tuple(range(pair.num_clips)):
        return "as filmed: this perturbation changes nothing"
    kept = f"{len(pair.order)} of {pair.num_clips} clips kept"
    turned = kendall_distance(pair.order)
    return f"{kept}, {turned:.0%} of their pairs turned round" if turned else kept


def choose_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Up to `count` pairs that take turns over kinds and levels, each from another video where possible."""
    queues: dict[tuple[str, int], list[Pair]] = {}
    for pair in pairs:
        queues.setdefault((pair.kind, pair.level), []).append(pair)
    chosen: list[Pair] = []
    seen: set[str] = set()
    for key in sorted(queues, key=lambda key: (key[1], key[0])):
        fresh = [pair for pair in queues[key] if pair.video_id not in seen] or queues[key]
        chosen.append(min(fresh, key=lambda pair: (pair.num_clips, pair.id)))
        seen.add(chosen[-1].video_id)
    return chosen[:count]


def _strip(
    frames: FrameStore, row: Clips | None, order: Sequence[int], kept: set[int]
) -> list[dict[str, Any]]:
    """One cell per clip in the given order: its first key frame, and whether the perturbation kept it.

    A run whose pairs were imported has no clips to show.
    """
    if row is None:
        return []
    starts = np.cumsum([0, *(len(clip.key_frames) for clip in row.clips)])
    pictures = frames.read_key_frames(row.id)
    return [{"number": i, "picture": picture_source(pictures[starts[i]]), "kept": i in kept} for i in order]


def _marked(text: str, other: str) -> str:
    """The text as HTML with the words that the other text lacks at this place marked."""
    words, others = re.findall(r"\S+\s*", text), re.findall(r"\S+\s*", other)
    parts = []
    for operation, start, end, _, _ in difflib.SequenceMatcher(
        None, words, others, autojunk=False
    ).get_opcodes():
        piece = html.escape("".join(words[start:end]))
        parts.append(piece if operation == "equal" else f"<mark>{piece}</mark>" if piece else "")
    return "".join(parts)


def picture_source(picture: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as a data address for an <img>."""
    image = Image.fromarray(picture)
    image.thumbnail((4 * PICTURE_HEIGHT, PICTURE_HEIGHT))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _curves(directory: Path) -> str:
    """Loss and margins of all phases, one after the other, as SVG; empty without training."""
    phases = [
        (
            str(path.parent.relative_to(directory)),
            [json.loads(line) for line in path.read_text().splitlines()],
        )
        for path in sorted(directory.glob("train/*/metrics.jsonl"))
    ]
    if not phases:
        return ""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3), layout="constrained")
    offset = 0
    for name, rows in phases:
        steps = [offset + row["step"] for row in rows]
        left.plot(steps, [row["loss"] for row in rows], label=name.removeprefix("train/"))
        if "rewards/margins" in rows[0]:
            right.plot(steps, [row["rewards/accuracies"] for row in rows], label=name.removeprefix("train/"))
        offset = steps[-1]
    left.set(title="loss", xlabel="step")
    right.set(title="rewards/accuracies", xlabel="step", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small") if axes.lines else axes.set_visible(False)
    data = io.StringIO()
    figure.savefig(data, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return data.getvalue()[data.getvalue().index("<svg") :]


def _audit(directory: Path) -> dict[str, Any] | None:
    path = directory / "audit.json"
    if not path.exists():
        return None
    audit = json.loads(path.read_text())
    headings, rows = audit_cells(audit)
    return {"verdict": audit["verdict"], "headings": headings, "rows": rows}


def _evaluation(directory: Path) -> dict[str, Any] | None:
    path = directory / "evaluation.json"
    if not path.exists():
        return None
    evaluation = json.loads(path.read_text())
    models = evaluation["models"]
    aspects = sorted({aspect for summary in models.values() for aspect in summary["by_aspect"]})
    rows = [
        {
            "name": name,
            "accuracy": percent(summary["accuracy"]),
            "interval": [percent(bound) for bound in summary["interval"]],
            "num_samples": summary["num_samples"],
            "groups": [percent(summary[f"{n}_score"]["accuracy"]) for n in ("text", "video", "group")],
            "aspects": [percent(summary["by_aspect"].get(aspect, {}).get("accuracy")) for aspect in aspects],
        }
        for name, summary in models.items()
    ]
    return {"note": evaluation.get("note", ""), "aspects": aspects, "rows": rows}
