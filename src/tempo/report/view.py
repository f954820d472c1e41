"""The videos, pairs and reviews of a run, as `tempo view` lists, filters and shows them."""

import functools
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

from tempo.core.files import whole_lines
from tempo.core.records import Captions, Clips, Pair, Perturbations, Skipped, Video
from tempo.core.store import REVIEWS, SKIPPED, RunStore, check_run_directory
from tempo.preference.audit import PAIR_SCORES
from tempo.preference.pairs import HELD_OUT, REJECTED, decision_on, log_length_ratio, review_of
from tempo.report.report import describe_order, mark_differences, shown_clips
from tempo.training.metrics import MARGINS
from tempo.video.frames import Frames, FrameStore

#: Rows of the list that are sent at once.
PAGE_SIZE = 100

#: The files with pairs, and the name of each part on the page.
PARTS = {"pairs": "training", HELD_OUT: "held out", REJECTED: "left out"}

#: The numbers by which pairs are filtered and sorted. The margin is the reward of the chosen text minus that
#: of the rejected one in the last step that trained the pair. An audit score is positive if the baseline,
#: which does not see the video, picks the chosen text.
MEASURES = {
    "margin": "margin in training",
    "length": "length ratio",
    "words": "audit score, words",
    "model": "audit score, model",
}

#: One row for each pair, and for each video, of which `kind` is `video`. `searched`, in lower case, is last,
#: because SQLite reads a long text to reach the columns behind it.
TABLE = """CREATE TABLE items (id TEXT PRIMARY KEY, video_id TEXT, kind TEXT, level INTEGER DEFAULT 0,
part TEXT DEFAULT '', decision TEXT DEFAULT '', margin REAL, length REAL, words REAL, model REAL,
searched TEXT)"""


class RunView:
    """The videos, pairs and reviews of a run.

    They are listed in a temporary database on disk, and only those that are shown are read whole. Raises
    ValueError if `directory` is not a run directory, or if its pairs have not been made yet.
    """

    def __init__(self, directory: Path) -> None:
        check_run_directory(directory)
        self.directory, self._store = directory, (store := RunStore(directory))
        if not store.is_done("pairs"):
            command = f"tempo run {directory / 'config.toml'} --out {directory} --until pairs"
            raise ValueError(f"{directory} has no pairs yet. Make them first: {command}")
        self._frames = FrameStore(directory / "frames")
        self._videos, self._clips = store.rows("videos", Video), store.rows("clips", Clips)
        self._captions = store.rows("captions", Captions)
        self._perturbations = store.rows("perturbations", Perturbations)
        self._pairs = [store.rows(name, Pair) for name in PARTS]
        # SQLite keeps a database without a name in a temporary file, and removes it at the end.
        self._table = sqlite3.connect("", check_same_thread=False)
        self._table.row_factory = sqlite3.Row
        self._fill()

    def _fill(self) -> None:
        fill, stream = self._table.executemany, self._store.stream
        # A row with two texts fits into a page.
        self._table.execute("PRAGMA page_size = 32768")
        self._table.execute(TABLE)
        fill("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._pair_rows())
        videos = chain[Video | Clips](stream("videos", Video), stream("clips", Clips))
        new = "INSERT OR IGNORE INTO items (id, video_id, kind, searched) VALUES (?1, ?1, 'video', ?2)"
        fill(new, ((row.id, f"{row.id} {row.path}".lower()) for row in videos))
        texts = ((row.id, " ".join(row.captions).lower()) for row in stream("captions", Captions))
        fill("UPDATE items SET searched = searched || ' ' || ?2 WHERE id = ?1", texts)
        reasons = ((row.id, f"{row.reason}: {row.detail}") for row in stream(SKIPPED, Skipped))
        change = "UPDATE items SET part = ?2, searched = searched || ' ' || lower(?2)"
        fill(f"{change} WHERE id = ?1 AND kind = 'video'", reasons)
        for path in sorted(self.directory.glob(f"train/*/{MARGINS}")):
            margins = (item for line in whole_lines(path) for item in json.loads(line).items())
            fill("UPDATE items SET margin = round(?2, 3) WHERE id = ?1", margins)

    def _pair_rows(self) -> Iterator[tuple[Any, ...]]:
        path, reviews = self.directory / PAIR_SCORES, self._store.reviews()
        scores = json.loads(path.read_bytes()) if path.exists() else {}
        for name, part in PARTS.items():
            for pair in self._store.stream(name, Pair):
                searched = " ".join((pair.id, pair.video, pair.prompt, pair.chosen, pair.rejected)).lower()
                measures = scores.get(pair.id, {}) | {"length": math.exp(log_length_ratio(pair))}
                numbers = (round(measures[key], 3) if key in measures else None for key in MEASURES)
                shown = (pair.id, pair.video_id, pair.kind, pair.level, part, decision_on(pair, reviews))
                yield *shown, *numbers, searched

    def review(self, name: str, decision: Any) -> None:
        """Appends a decision to `reviews.jsonl`; raises ValueError for an unknown one, or for a video."""
        pair = self._pair(name)
        if pair is None or decision not in ("keep", "reject"):
            raise ValueError(f"{decision!r} is not a decision on {name}. Send keep or reject for a pair")
        review = review_of(pair, decision)
        self._store.append(REVIEWS, [review])
        both = (decision, review.id, f"{review.id}/mirror")
        self._table.execute("UPDATE items SET decision = ? WHERE id IN (?, ?)", both)

    def choices(self) -> dict[str, Any]:
        """The values that the page offers as filters: kinds, levels, parts, and names of measures by key."""

        def values(column: str, order: str = "") -> list[Any]:
            found = f"SELECT DISTINCT {column} FROM items WHERE kind != 'video' ORDER BY {column} {order}"
            return [value for (value,) in self._table.execute(found)]

        counts = self._table.execute(f"SELECT {', '.join(f'count({key})' for key in MEASURES)} FROM items")
        known = zip(MEASURES.items(), counts.fetchone(), strict=True)
        return {
            "kinds": values("kind"),
            "levels": values("level", "DESC"),
            "parts": values("part"),
            "measures": dict(item for item, count in known if count),
        }

    def select(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The first rows of the list that pass the filters of `query`, or those after the item `after`."""
        wanted = {name: value for name, value in query.items() if value}
        tests: list[tuple[str, Any]] = [("(kind = 'video') = ?", wanted.get("kind") == "video")]
        tests += [(f"{name} = ?", wanted[name]) for name in ("kind", "level", "part") if name in wanted]
        if "decision" in wanted:
            tests.append(("decision = ?", wanted["decision"].replace("none", "")))
        bounds = {"min": ">=", "max": "<="}
        for name, (bound, sign) in product(MEASURES, bounds.items()):
            if value := wanted.get(f"{bound}-{name}"):
                tests.append((f"{name} {sign} ?", float(value)))
        tests += [("instr(searched, ?)", word) for word in wanted.get("search", "").lower().split()]
        passing, values = " AND ".join(test for test, _ in tests), [value for _, value in tests]
        total = self._table.execute(f"SELECT count(*) FROM items WHERE {passing}", values).fetchone()[0]
        order, sort = "id", wanted.get("sort", "")
        if (column := sort.removeprefix("-")) in ("level", *MEASURES):
            order = f"{column} IS NULL, ifnull({sort}, 0), id"
        if "after" in wanted:
            passing += f" AND ({order}) > (SELECT {order} FROM items WHERE id = ?)"
            values.append(wanted["after"])
        found = f"SELECT * FROM items WHERE {passing} ORDER BY {order} LIMIT {PAGE_SIZE}"
        return {"total": total, "rows": [*map(self._shown, self._table.execute(found, values))]}

    def _shown(self, item: sqlite3.Row) -> dict[str, Any]:
        """What the list shows of an item."""
        row, path = self._clips.get(item["video_id"]), self.path(item["video_id"])
        shown = {key: item[key] for key in ("id", "video_id", "kind", "level", "part", "decision")}
        measures = {MEASURES[key]: item[key] for key in MEASURES if item[key] is not None}
        return shown | {"name": row.name if row else path.name, "measures": measures}

    def detail(self, name: str) -> dict[str, Any]:
        """What the page shows of an item. Differences between the texts of a pair are marked, as HTML.

        Raises LookupError for an unknown name.
        """
        item = self._table.execute("SELECT * FROM items WHERE id = ?", (name,)).fetchone()
        if not item:
            raise LookupError(f"this run has no {name!r}")
        video_id = item["video_id"]
        stored, pair, row = self.frames(video_id), self._pair(name), self._clips.get(video_id)
        # The player shows the whole file, so the times of a segment count from the start of the file.
        clips, start = (row.clips, row.start_seconds) if row else ((), 0.0)
        captions = self._captions[video_id].captions if video_id in self._captions else ("",) * len(clips)
        spans = [(start + clip.start_seconds, start + clip.end_seconds) for clip in clips]
        shown = self._shown(item) | {
            "start": start,
            "clips": [*zip(spans, captions, strict=True)],
            "frame_seconds": (start + stored.seconds).tolist() if stored else [],
        }
        if pair:
            shown |= {"order": pair.order, "is_mirror": bool(pair.frames), "prompt": pair.prompt}
            shown |= {"difficulty": describe_order(pair), "shown": [*self._rejected(pair)]}
            shown |= {"chosen": mark_differences(pair.chosen, pair.rejected)}
            shown |= {"rejected": mark_differences(pair.rejected, pair.chosen)}
        return shown

    def _rejected(self, pair: Pair) -> Iterator[int | dict[str, Any]]:
        """The clips that the rejected text is about: the index of a clip, or a clip of another video."""
        for name, i in shown_clips(pair, self._perturbations):
            if name == pair.video_id:
                yield i
                continue
            row, stored = self._clips[name], self.frames(name)
            middle = (row.clips[i].start_seconds + row.clips[i].end_seconds) / 2
            number = int(np.abs(stored.seconds - middle).argmin()) if stored else 0
            captions = self._captions.get(name)
            shown = {"video": row.name, "caption": captions.captions[i] if captions else ""}
            yield {"name": i + 1, "frame": {"id": name, "number": number}} | shown

    def _pair(self, name: str) -> Pair | None:
        return next((rows[name] for rows in self._pairs if name in rows), None)

    def path(self, video_id: str) -> Path:
        """The file of a video or segment; raises LookupError for an unknown id."""
        if not (row := self._clips.get(video_id) or self._videos.get(video_id)):
            raise LookupError(f"this run has no video {video_id!r}")
        return Path(row.path)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a server has one view
    def frames(self, video_id: str) -> Frames | None:
        """The stored frames of a video, if it has any; raises LookupError for an unknown id."""
        self.path(video_id)
        return self._frames.read(video_id) if self._frames.has(video_id) else None
