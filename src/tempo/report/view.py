"""The videos, pairs and reviews of a run, as `tempo view` lists, filters and shows them."""

from __future__ import annotations

import bisect
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tempo.core.records import Captions, Clips, Pair, Skipped, Video
from tempo.core.store import REVIEWS, SKIPPED, RunStore, check_run_directory
from tempo.preference.audit import PAIR_SCORES
from tempo.preference.pairs import HELD_OUT, REJECTED, decision_on, log_length_ratio, review_of
from tempo.report.report import describe_order, mark_differences
from tempo.video.frames import Frames, FrameStore

#: Rows of the list that are sent at once.
PAGE_SIZE = 100

#: The files with pairs, and the name of each part on the page.
PARTS = {"pairs": "training", HELD_OUT: "held out", REJECTED: "left out"}

#: The numbers by which pairs are filtered and sorted. An audit score is positive if the baseline, which does
#: not see the video, picks the chosen text.
MEASURES = {"length": "length ratio", "words": "audit score, words", "model": "audit score, model"}


@dataclass(frozen=True)
class Item:
    """A row of the list: a pair, or a video, of which `kind` is `video`. `searched` is in lower case."""

    id: str
    video_id: str
    kind: str
    part: str
    searched: str
    level: int = 0
    measures: dict[str, float] = field(default_factory=dict)
    pair: Pair | None = None


class RunView:
    """The videos, pairs and reviews of a run.

    Raises ValueError if `directory` is not a run directory, or if its pairs have not been made yet.
    """

    def __init__(self, directory: Path) -> None:
        check_run_directory(directory)
        self.directory, self._store = directory, (store := RunStore(directory))
        if not store.is_done("pairs"):
            command = f"tempo run {directory / 'config.toml'} --out {directory} --until pairs"
            raise ValueError(f"{directory} has no pairs yet. Make them first: {command}")
        self._clips = {row.id: row for row in store.read("clips", Clips)}
        self._captions = {row.id: row.captions for row in store.read("captions", Captions)}
        self.paths = {row.id: Path(row.path) for row in store.read("videos", Video)}
        self.paths |= {row.id: Path(row.path) for row in self._clips.values()}
        self._reviews = store.reviews()
        self.items = {item.id: item for item in (*self._pairs(), *self._videos())}

    def _pairs(self) -> list[Item]:
        path = self.directory / PAIR_SCORES
        scores = json.loads(path.read_bytes()) if path.exists() else {}
        items = []
        for name, part in PARTS.items():
            for pair in self._store.read(name, Pair):
                searched = " ".join((pair.id, pair.video, pair.prompt, pair.chosen, pair.rejected)).lower()
                measures = scores.get(pair.id, {}) | {"length": math.exp(log_length_ratio(pair))}
                measures = {key: round(measures[key], 3) for key in MEASURES if key in measures}
                own = (pair.id, pair.video_id, pair.kind, part, searched, pair.level, measures, pair)
                items.append(Item(*own))
        return items

    def _videos(self) -> list[Item]:
        reasons = {row.id: f"{row.reason}: {row.detail}" for row in self._store.read(SKIPPED, Skipped)}
        items = []
        for name, path in self.paths.items():
            part = reasons.get(name, "")
            searched = " ".join((name, str(path), part, *self._captions.get(name, ()))).lower()
            items.append(Item(name, name, "video", part, searched))
        return items

    def review(self, item: Item, decision: Any) -> None:
        """Appends a decision to `reviews.jsonl`; raises ValueError for an unknown one, or for a video."""
        if item.pair is None or decision not in ("keep", "reject"):
            raise ValueError(f"{decision!r} is not a decision on {item.id}. Send keep or reject for a pair")
        review = review_of(item.pair, decision)
        self._store.append(REVIEWS, [review])
        self._reviews[review.id] = review

    def choices(self) -> dict[str, Any]:
        """The values that the page offers as filters: kinds, levels, parts, and names of measures by key."""
        pairs = [item for item in self.items.values() if item.pair]
        return {
            "kinds": sorted({item.kind for item in pairs}),
            "levels": sorted({item.level for item in pairs}, reverse=True),
            "parts": sorted({item.part for item in pairs}),
            "measures": {
                key: MEASURES[key] for key in MEASURES if any(key in item.measures for item in pairs)
            },
        }

    def select(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The first rows of the list that pass the filters of `query`, or those after the item `after`."""
        order, sign = query.get("sort", "").removeprefix("-"), -1 if query.get("sort", "")[:1] == "-" else 1

        def key(item: Item) -> tuple[bool, float, str]:
            value = item.level if order == "level" else item.measures.get(order)
            return value is None, sign * (value or 0), item.id

        wanted = {name: value for name, value in query.items() if value}
        found = sorted(filter(self._filter(wanted), self.items.values()), key=key)
        last = self.items.get(query.get("after", ""))
        start = bisect.bisect_right(found, key(last), key=key) if last else 0
        return {"total": len(found), "rows": [self._row(item) for item in found[start : start + PAGE_SIZE]]}

    def _filter(self, wanted: Mapping[str, str]) -> Callable[[Item], bool]:
        """Tells whether an item passes the filters that are set."""
        words, ranges = wanted.get("search", "").lower().split(), dict[str, tuple[float, float]]()
        for name in MEASURES:
            if wanted.keys() & {f"min-{name}", f"max-{name}"}:
                ranges[name] = (
                    float(wanted.get(f"min-{name}", "-inf")),
                    float(wanted.get(f"max-{name}", "inf")),
                )
        exact = [name for name in ("kind", "level", "part") if name in wanted]

        def passes(item: Item) -> bool:
            return (
                (item.kind == "video") == (wanted.get("kind") == "video")
                and all(str(getattr(item, name)) == wanted[name] for name in exact)
                and ("decision" not in wanted or (self._decision(item) or "none") == wanted["decision"])
                and all(
                    low <= item.measures.get(name, math.nan) <= high for name, (low, high) in ranges.items()
                )
                and all(word in item.searched for word in words)
            )

        return passes

    def _decision(self, item: Item) -> str:
        return decision_on(item.pair, self._reviews) if item.pair else ""

    def _row(self, item: Item) -> dict[str, Any]:
        row, path = self._clips.get(item.video_id), self.paths.get(item.video_id, Path(item.video_id))
        name = row.name if row else path.name
        shown = {key: getattr(item, key) for key in ("id", "video_id", "kind", "level", "part")}
        measures = {MEASURES[key]: value for key, value in item.measures.items()}
        return shown | {"name": name, "decision": self._decision(item), "measures": measures}

    def detail(self, item: Item) -> dict[str, Any]:
        """What the page shows of an item. Differences between the texts of a pair are marked, as HTML."""
        stored, pair = self.frames(item.video_id), item.pair
        row = self._clips.get(item.video_id)
        # The player shows the whole file, so the times of a segment count from the start of the file.
        clips, start = (row.clips, row.start_seconds) if row else ((), 0.0)
        captions = self._captions.get(item.video_id) or ("",) * len(clips)
        spans = [(start + clip.start_seconds, start + clip.end_seconds) for clip in clips]
        shown = self._row(item) | {
            "start": start,
            "clips": [*zip(spans, captions, strict=True)],
            "frame_seconds": (start + stored.seconds).tolist() if stored else [],
        }
        if pair:
            shown |= {"order": pair.order, "is_mirror": bool(pair.frames), "prompt": pair.prompt}
            shown |= {"difficulty": describe_order(pair)}
            shown |= {"chosen": mark_differences(pair.chosen, pair.rejected)}
            shown |= {"rejected": mark_differences(pair.rejected, pair.chosen)}
        return shown

    def frames(self, video_id: str) -> Frames | None:
        """The stored frames of a video, if it has any."""
        return _read_frames(self.directory / "frames", video_id) if video_id in self.paths else None


@functools.lru_cache(maxsize=4)
def _read_frames(directory: Path, video_id: str) -> Frames | None:
    store = FrameStore(directory)
    return store.read(video_id) if store.has(video_id) else None
