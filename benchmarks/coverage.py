"""How many videos of some folders are used, with contact sheets of their clips.

    python benchmarks/coverage.py [FOLDER ...] [--out out/coverage] [--source auto]

Runs the stages from `videos` to `clips`. It prints a line for each file that can be decoded: its clips, or
why it was skipped. `index.html` has a contact sheet of every file, with the two key frames of each clip; of a
file without clips, it shows stored frames. The run stays in the folder, so other settings need another --out.
Without folders, the videos in ../shared/videos are used.
"""

from __future__ import annotations

import argparse
import html
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
import numpy as np

from tempo.config import Config
from tempo.core.records import Clips, Skipped, Video, file_of
from tempo.core.store import SKIPPED, RunStore
from tempo.pipeline.runner import run
from tempo.report.pictures import film
from tempo.video.frames import FrameStore

#: Stored frames that are shown of a file without clips.
NUM_FRAMES = 12

STYLE = """
body { font: 14px sans-serif; margin: 1em } h2 { font-size: 1em; margin: 1.5em 0 0.3em }
figure { display: inline-block; margin: 2px } figcaption { font-size: 11px } img { height: 72px }
"""


@dataclass(frozen=True)
class Coverage:
    """A file that can be decoded: the segments that were kept, or why there are none."""

    video: Video
    segments: list[Clips]
    reason: str

    def __str__(self) -> str:
        clips = [f"{len(row.clips)} clips from {row.start_seconds:.0f} s" for row in self.segments]
        return f"{Path(self.video.path).name}: {'; '.join(clips) or self.reason}"


def read_coverage(directory: Path) -> list[Coverage]:
    """Every file of a run that can be decoded."""
    store = RunStore(directory)
    rows = [row for row in store.read(SKIPPED, Skipped) if row.stage == "clips"]
    reasons = {row.id: f"{row.reason} ({row.detail})" for row in rows}
    segments = defaultdict[str, list[Clips]](list)
    for row in sorted(store.read("clips", Clips), key=lambda row: row.start_seconds):
        segments[file_of(row.id)].append(row)
    videos = [video for video in store.read("videos", Video) if video.id in {*reasons, *segments}]
    return [Coverage(one, segments[one.id], reasons.get(one.id, "")) for one in videos]


def page(found: list[Coverage], frames: FrameStore) -> Iterator[str]:
    """The lines of a page with the contact sheets."""
    yield f"<!doctype html><meta charset=utf-8><title>coverage</title><style>{STYLE}</style>"
    for one in found:
        yield f"<h2>{html.escape(str(one))}</h2>"
        for row in one.segments:
            images = frames.read_key_frames(row.id)
            for index, clip in enumerate(row.clips):
                start, end = (row.start_seconds + t for t in (clip.start_seconds, clip.end_seconds))
                yield _figure(images[2 * index : 2 * index + 2], f"{start:.1f} to {end:.1f} s")
            yield "<hr>"
        if not one.segments:
            stored = frames.read(one.video.id)
            for index in np.linspace(0, len(stored.jpegs) - 1, NUM_FRAMES).round().astype(int):
                yield _figure(stored.images[index : index + 1], f"{stored.seconds[index]:.1f} s")


def _figure(images: np.ndarray, caption: str) -> str:
    return f"<figure><img alt='' src='{film(images).source}'><figcaption>{caption}</figcaption></figure>"


def main() -> None:
    """Prints the files and writes the page."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    shared = harness.OUT.parents[1] / "shared" / "videos"
    parser.add_argument("folders", type=Path, nargs="*", default=[shared])
    parser.add_argument("--out", type=Path, default=harness.OUT / "coverage")
    parser.add_argument("--source", default="auto")
    arguments = parser.parse_args()
    harness.quiet_environment(1)
    sections = {"videos": {"paths": list(map(str, arguments.folders))}, "clips": {"source": arguments.source}}
    run(Config.model_validate(sections), arguments.out, until="clips")
    found = read_coverage(arguments.out)
    print(*sorted(map(str, found)), sep="\n")
    print(f"{sum(bool(one.segments) for one in found)} of {len(found)} readable files become clips")
    path = arguments.out / "index.html"
    path.write_text("\n".join(page(found, FrameStore(arguments.out / "frames"))), encoding="utf-8")
    print(f"see {path}")


if __name__ == "__main__":
    main()
