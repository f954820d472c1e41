"""One self-contained HTML page: the result, descriptions, pairs, curves, audit, what was skipped, videos."""

import difflib
import functools
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tempo.core.files import read_jsonl, write_text
from tempo.core.records import Captions, Clips, Pair, Perturbations
from tempo.core.store import RunStore, count_skipped
from tempo.engine.types import Context
from tempo.evaluation.figures import figure_table, percent, read_evaluation, text_tables
from tempo.preference.exporting import count_pairs
from tempo.preference.perturbations import kendall_distance
from tempo.preference.responses import frames_by_clip, key_frames_by_clip
from tempo.preference.verify import match_sentences
from tempo.report.pictures import draw_curves, film
from tempo.report.results import MAIN, headline, main_figures
from tempo.video.frames import FrameStore

#: Stages whose rows are counted on the page.
COUNTED_STAGES = ("videos", "shots", "clips", "captions", "responses", "pairs")

#: The number of pairs from which those on the page are chosen.
NUM_CANDIDATES = 10_000

#: The number of videos whose descriptions are shown.
NUM_DESCRIBED = 4

#: The maximum size of the page in bytes; larger pages get fewer frames per clip.
MAX_BYTES = 6_000_000


def write_report(context: Context) -> Path:
    """Writes `report.html` into the run directory and returns its path."""
    from jinja2 import Environment, PackageLoader

    # Explicit, because select_autoescape() does not recognize the suffix `.html.jinja`.
    environment = Environment(loader=PackageLoader("tempo.report"), autoescape=True, trim_blocks=True)
    environment.globals |= {"describe_order": describe_order, "mark_differences": mark_differences}
    template = environment.get_template("report.html.jinja")
    kinds = count_pairs(RunStore(context.directory).stream("pairs", Pair))
    for num_frames in (6, 2, 0):
        page = template.render(**report_data(context, num_frames=num_frames), kinds=kinds)
        if len(page.encode()) < MAX_BYTES:
            break
    path = context.directory / "report.html"
    write_text(path, page)
    return path


def report_data(context: Context, *, num_frames: int = 6) -> dict[str, Any]:
    """The data shown on the page, with at most `num_frames` frames per clip besides its key frame.

    Parts that the run does not have yet are empty.
    """
    # It loads torch.
    from tempo.evaluation.held_out import Description

    store, directory, limits = RunStore(context.directory), context.directory, context.config.report
    clips, captions = store.rows("clips", Clips), store.rows("captions", Captions)
    frames, perturbations = FrameStore(directory / "frames"), store.rows("perturbations", Perturbations)

    def captions_of(video_id: str) -> Sequence[str]:
        return captions[video_id].captions if video_id in captions else ()

    @functools.cache
    def strip(video_id: str) -> list[dict[str, Any]]:
        # Imported pairs may have videos without clips.
        row = clips.get(video_id)
        return [*_strip(row, captions_of(video_id), frames, num_frames)] if row else []

    def rejected(pair: Pair) -> list[dict[str, Any]]:
        shown = shown_clips(pair, perturbations) if pair.video_id in clips else ()
        other = {name: {"times": f"of {clips[name].name}"} for name, _ in shown if name != pair.video_id}
        return [strip(name)[i] | other.get(name, {}) for name, i in shown]

    # Pairs are sorted by video id, a hash, so the first ones are a random sample.
    pairs = choose_pairs([*islice(store.stream("pairs", Pair), NUM_CANDIDATES)], limits.num_pairs)
    key = attrgetter("video_id")
    described = sorted(store.stream("evaluation/descriptions", Description), key=key)
    path, evaluation = directory / "audit.json", read_evaluation(directory)
    audit = json.loads(path.read_bytes()) if path.exists() else {}
    main = main_figures(evaluation.figures)
    metrics = sorted(directory.glob("train/*/metrics.jsonl"))
    phases = {path.parent.name: rows for path in metrics if (rows := read_jsonl(path))}
    return {
        "directory": directory.name,
        "config": context.config,
        "result": headline(next(iter(main), None)),
        "chart": [(MAIN[figure.name], figure) for figure in main],
        "descriptions": [
            {
                "name": clips[video].name if video in clips else video,
                "clips": strip(video),
                "texts": [(row, match_sentences(row.text, captions_of(video))) for row in rows],
            }
            for video, rows in islice(groupby(described, key=key), NUM_DESCRIBED)
        ],
        "stages": {name: store.count(name) for name in COUNTED_STAGES},
        "pairs": [(pair, strip(pair.video_id), rejected(pair)) for pair in pairs],
        "phases": phases,
        "curves": phases and draw_curves(phases, ("loss", "rewards/accuracies")),
        "figures": text_tables(evaluation.figures),
        "notes": evaluation.notes or ["The models have not been compared yet."] * (not evaluation.figures),
        "audit": audit and {"verdict": audit["verdict"], "rows": audit_rows(audit)},
        "skipped": [
            (stage, reason, found.num_records, found.example)
            for (stage, reason), found in sorted(count_skipped(store).items())
        ],
        "videos": [
            {"name": clips[row].name, "num_shots": clips[row].num_shots, "clips": strip(row)}
            for row in islice(clips, limits.num_videos)
        ],
    }


def choose_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` pairs, one per kind and level, each from a different video where possible."""
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.level, pair.kind), []).append(pair)
    chosen, seen = list[Pair](), set[str]()
    for _, group in sorted(groups.items()):
        fresh = [pair for pair in group if pair.video_id not in seen] or group
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
    headings = ["", "pairs", *audit["baselines"]]
    interval = ["95 % interval", "", *(" - ".join(map(percent, b["interval"])) for b in baselines)]
    return [headings, rows[0], interval, *rows[1:]]


def audit_table(audit: Mapping[str, Any]) -> Table | str:
    """The content of `audit.json` as a table for a terminal, or a sentence if there is no baseline."""
    counts = f"{audit['num_audited']} of {audit['num_pairs']} pairs"
    if not (rows := audit_rows(audit)):
        return f"audit: {counts}"
    return figure_table(f"accuracy without the video, in percent ({counts})", rows[0], rows[1:])


def mark_differences(text: str, other: str) -> str:
    """`text` as HTML, with the words that differ from `other` in <mark>."""
    words, others = re.findall(r"\S+\s*", text), re.findall(r"\S+\s*", other)
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    parts = []
    for operation, start, end, _, _ in matcher.get_opcodes():
        piece = html.escape("".join(words[start:end]))
        parts.append(f"<mark>{piece}</mark>" if piece and operation != "equal" else piece)
    return "".join(parts)


def shown_clips(pair: Pair, perturbations: Mapping[str, Perturbations]) -> list[tuple[str, int]]:
    """Video id and index of each clip that the rejected text is about, in order."""
    row = perturbations.get(pair.video_id)
    made = [p for p in row.perturbations if (p.kind, p.level) == (pair.kind, pair.level)] if row else []
    shown = {place: (pair.video_id, place) for place in pair.order}
    replaced = {place: (name, clip) for known in made for place, name, clip in known.replaced}
    return [(shown | replaced)[place] for place in (sorted(shown | replaced) if replaced else shown)]


def describe_order(pair: Pair) -> str:
    """How much the order of a pair differs from the original; empty for a pair without a known order."""
    if not pair.order:
        return ""
    if pair.order == tuple(range(pair.num_clips)):
        return "order unchanged, which can happen under the rule `paper`"
    kept = f"{len(pair.order)} of {pair.num_clips} clips kept"
    kept += ", the others replaced by clips of another video" if pair.kind == "replace" else ""
    inverted = kendall_distance(pair.order)
    return f"{kept}, order of {inverted:.0%} of clip pairs inverted" if inverted else kept


def _strip(
    row: Clips, captions: Sequence[str], frames: FrameStore, num_frames: int
) -> Iterator[dict[str, Any]]:
    """The clips of a video in order, each with its first key frame and some stored frames as a film."""
    keys, stored = key_frames_by_clip(row, frames), frames_by_clip(row, frames)
    for i, clip in enumerate(row.clips):
        own = np.flatnonzero(stored.clip_T == i)
        shown = own[np.linspace(0, len(own) - 1, min(num_frames, len(own))).round().astype(int)]
        yield {
            "film": film([keys.frames[np.argmax(keys.clip_T == i)], *stored.frames[shown]]),
            "number": i + 1,
            "times": f"{clip.start_seconds:.0f}–{clip.end_seconds:.0f} s",
            "caption": captions[i] if captions else "",
        }
