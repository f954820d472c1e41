"""What the tests of export and import are made of: a finished run with two videos and their pairs."""

from __future__ import annotations

import numpy as np
import tomli_w

from tempo.core.records import Pair, Video
from tempo.core.store import RunStore
from tempo.video.find import video_id
from tempo.video.frames import FrameStore, encode_jpeg

NUM_FRAMES = 3

#: Texts with what tends to break files of lines: quotes, newlines, line separators, other scripts.
ODD_TEXT = 'A "red" ball,\nthen\u2028a cube; 猫 {"a": 1} \\n'


def pair_of(video, path, kind="drop", level=16, order=(0, 2), **texts):
    """A pair of a video of four clips."""
    return Pair(
        id=f"{video}/{kind}-{level:02d}",
        video_id=video,
        video=str(path),
        prompt=texts.get("prompt", "Describe the video in order."),
        chosen=texts.get("chosen", f"As filmed: {ODD_TEXT}"),
        rejected=texts.get("rejected", f"Otherwise: {kind} {level}."),
        kind=kind,
        level=level,
        order=order,
        num_clips=4,
    )


def four_pairs(ids, paths):
    """Pairs of two videos, of three kinds and levels, sorted by id."""
    (first, second), (one, two) = ids, paths
    pairs = [
        pair_of(first, one),
        pair_of(first, one, "reverse", 2, (2, 3, 0, 1)),
        pair_of(second, two, "shuffle", 8, (1, 0, 3, 2)),
        pair_of(second, two, "reverse", 16, (3, 2, 1, 0), rejected=ODD_TEXT),
    ]
    return sorted(pairs, key=lambda pair: pair.id)


def make_videos(store, folder):
    """Two files that pass for videos, their rows and their frames; returns ids and paths."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, paths = [], []
    for number, name in enumerate(("a film.mp4", 'späť "2".mp4')):
        path = folder / name
        path.write_bytes(b"content of " + name.encode())
        ids.append(video_id(path))
        paths.append(path)
        size = {"duration_seconds": 3.0, "width": 96, "height": 64, "fps": 8.0, "codec": "h264"}
        store.append("videos", [Video(id=ids[-1], path=str(path), **size)])
        jpegs = [
            encode_jpeg(np.full((64, 96, 3), 20 + 40 * number + 5 * i, np.uint8), 95)
            for i in range(NUM_FRAMES)
        ]
        FrameStore(store.directory / "frames").write(ids[-1], jpegs, seconds=range(NUM_FRAMES), fps=1.0)
    return ids, paths


def make_run(directory, **sections):
    """A run whose pairs are done; returns the pairs."""
    store = RunStore(directory)
    ids, paths = make_videos(store, directory.parent / "films")
    pairs = four_pairs(ids, paths)
    store.append("pairs", pairs)
    store.finish("pairs", "fingerprint")
    config = {"run": {"seed": 7}, "model": {"path": "some/model"}, "frames": {"fps": 1.0}, **sections}
    (directory / "config.toml").write_text(tomli_w.dumps(config))
    return pairs
