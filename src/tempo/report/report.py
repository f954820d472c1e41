"""One self-contained HTML page: film strips, pairs, audit, training curves, accuracies."""

from __future__ import annotations

import base64
import difflib
import html
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from tempo.core.files import read_jsonl, whole_lines, write_text
from tempo.core.records import Captions, Clips, Pair, Shots
from tempo.core.store import RunStore, count_skipped
from tempo.engine.types import Context
from tempo.evaluation.figures import figure_table, percent, text_tables
from tempo.preference.perturbations import kendall_distance
from tempo.video.frames import FrameStore

#: Height of an image on the page, in pixels.
IMAGE_HEIGHT = 72

#: Stages whose rows are counted on the page.
COUNTED_STAGES = ("videos", "shots", "clips", "captions", "responses", "pairs")


def write_report(context: Context) -> Path:
    """Writes `report.html` into the run directory and returns its path."""
    from jinja2 import Environment, PackageLoader

    # Explicit, because select_autoescape() does not recognize the suffix `.html.jinja`.
    environment = Environment(loader=PackageLoader("tempo.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.jinja").render(**report_data(context))
    path = context.directory / "report.html"
    write_text(path, page)
    return path


def report_data(context: Context) -> dict[str, Any]:
    """The data shown on the page; parts that the run does not have yet are empty."""
    store, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    clips = {row.id: row for row in store.read("clips", Clips)}
    pairs = store.read("pairs", Pair)
    counts = Counter((pair.kind, pair.level) for pair in pairs)
    levels, kinds = sorted({p.level for p in pairs}, reverse=True), sorted({p.kind for p in pairs})
    paths = (context.directory / f"{name}.json" for name in ("audit", "evaluation"))
    audit, evaluation = (json.loads(path.read_bytes()) if path.exists() else None for path in paths)
    return {
        "directory": context.directory.name,
        "model": context.config.model.path,
        "counts": {
            "stages": {name: len(whole_lines(store.path(name))) for name in COUNTED_STAGES},
            "levels": levels,
            "kinds": {kind: [counts[kind, level] for level in levels] for kind in kinds},
        },
        "skipped": [
            {"stage": stage, "reason": reason, "count": count, "example": example}
            for (stage, reason), (count, example) in sorted(count_skipped(store).items())
        ],
        "videos": _videos(store, frames, list(clips.values())[: context.config.report.num_videos]),
        "pairs": [
            _pair(pair, _clip_images(frames, clips.get(pair.video_id)))
            for pair in choose_pairs(pairs, context.config.report.num_pairs)
        ],
        "audit": audit and {"verdict": audit["verdict"], "rows": audit_rows(audit)},
        "curves": _curves(context.directory),
        "evaluation": evaluation and {"notes": evaluation["notes"], "tables": text_tables(evaluation)},
    }


def choose_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` pairs, one per kind and level, each from a different video where possible."""
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.level, pair.kind), []).append(pair)
    chosen: list[Pair] = []
    seen: set[str] = set()
    for key in sorted(groups):
        fresh = [pair for pair in groups[key] if pair.video_id not in seen] or groups[key]
        chosen.append(min(fresh, key=lambda pair: (pair.num_clips, pair.id)))
        seen.add(chosen[-1].video_id)
    return chosen[:count]


def audit_rows(audit: Mapping[str, Any]) -> list[list[str]]:
    """`audit.json` as rows of text, headings first, one column per baseline; empty without one."""
    baselines = list(audit["baselines"].values())
    if not baselines:
        return []
    parts: dict[str, list[Any]] = {"all pairs": baselines}
    for key, label in (("by_kind", "{}"), ("by_level", "r = {}")):
        parts |= {label.format(name): [b[key].get(name, {}) for b in baselines] for name in baselines[0][key]}
    rows = [
        [name, str(cells[0]["num_pairs"]), *(percent(cell.get("accuracy")) for cell in cells)]
        for name, cells in parts.items()
    ]
    headings = ["", "pairs", *(name.replace("_", " ") for name in audit["baselines"])]
    interval = ["95 % interval", "", *(" - ".join(map(percent, b["interval"])) for b in baselines)]
    return [headings, rows[0], interval, *rows[1:]]


def audit_table(audit: Mapping[str, Any]) -> Table | str:
    """The content of `audit.json` as a table for a terminal, or a sentence if there is no baseline."""
    counts = f"{audit['num_audited']} of {audit['num_pairs']} pairs"
    if not (rows := audit_rows(audit)):
        return f"audit: {counts}"
    return figure_table(f"accuracy without the video, in percent ({counts})", rows[0], rows[1:])


def image_source(image: np.ndarray) -> str:
    """An image uint8 [H, W, 3] as the `src` of an <img>, at most IMAGE_HEIGHT high."""
    small = Image.fromarray(image)
    small.thumbnail((4 * IMAGE_HEIGHT, IMAGE_HEIGHT))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def mark_differences(text: str, other: str) -> str:
    """`text` as HTML, with the words that differ from `other` in <mark>."""
    words, others = re.findall(r"\S+\s*", text), re.findall(r"\S+\s*", other)
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    parts = []
    for operation, start, end, _, _ in matcher.get_opcodes():
        piece = html.escape("".join(words[start:end]))
        parts.append(f"<mark>{piece}</mark>" if piece and operation != "equal" else piece)
    return "".join(parts)


def describe_order(pair: Pair) -> str:
    """How much the order of a pair differs from the original; empty for a pair without a known order."""
    if not pair.order:
        return ""
    if pair.order == tuple(range(pair.num_clips)):
        return "order unchanged, which can happen under the rule `paper`"
    kept = f"{len(pair.order)} of {pair.num_clips} clips kept"
    inverted = kendall_distance(pair.order)
    return f"{kept}, order of {inverted:.0%} of clip pairs inverted" if inverted else kept


def _videos(store: RunStore, frames: FrameStore, shown: Sequence[Clips]) -> list[dict[str, Any]]:
    """Film strips: the clips of each video in order, each with its key frames and caption."""
    captions = {row.id: row.captions for row in store.read("captions", Captions)}
    num_shots = {row.id: len(row.shots) for row in store.read("shots", Shots)}
    videos = []
    for row in shown:
        texts = captions.get(row.id) or ("",) * len(row.clips)
        cells = zip(row.clips, _clip_images(frames, row), texts, strict=True)
        strip = [{"clip": clip, "images": images, "caption": text} for clip, images, text in cells]
        name = Path(row.path).name
        videos.append({"id": row.id, "name": name, "num_shots": num_shots[row.id], "clips": strip})
    return videos


def _clip_images(frames: FrameStore, row: Clips | None) -> list[list[str]]:
    """The key frames of each clip of a video; empty for a video without clips (imported pairs)."""
    if row is None:
        return []
    sources = [image_source(image) for image in frames.read_key_frames(row.id)]
    ends = np.cumsum([len(clip.key_frames) for clip in row.clips])
    return [sources[end - len(clip.key_frames) : end] for clip, end in zip(row.clips, ends, strict=True)]


def _pair(pair: Pair, images: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A pair with the first key frame of each clip, in the original order and in that of the pair."""
    cells = [{"number": i, "image": own[0], "is_kept": i in pair.order} for i, own in enumerate(images)]
    return {
        "id": pair.id,
        "name": Path(pair.video).name,
        "kind": pair.kind,
        "level": pair.level,
        "prompt": pair.prompt,
        "difficulty": describe_order(pair),
        "clean": cells,
        "perturbed": [cells[i] for i in pair.order] if cells else [],
        "chosen": mark_differences(pair.chosen, pair.rejected),
        "rejected": mark_differences(pair.rejected, pair.chosen),
    }


def _curves(directory: Path) -> str:
    """Loss and accuracy of all phases, one after another, as SVG; empty if nothing was trained."""
    paths = sorted(directory.glob("train/*/metrics.jsonl"))
    phases = {path.parent.name: rows for path in paths if (rows := read_jsonl(path))}
    if not phases:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    # A fixed salt and no date, so that the same run always gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "tempo"}):
        figure = Figure(figsize=(10, 3), layout="constrained")
        for axes, key in zip(figure.subplots(1, 2), ("loss", "rewards/accuracies"), strict=True):
            num_steps = 0
            for name, rows in phases.items():
                if key in rows[0]:
                    steps = [num_steps + row["step"] for row in rows]
                    axes.plot(steps, [row[key] for row in rows], label=name)
                num_steps += rows[-1]["step"]
            axes.set(title=key, xlabel="step", visible=bool(axes.lines))
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize="small")
        data = io.StringIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()[data.getvalue().index("<svg") :]
