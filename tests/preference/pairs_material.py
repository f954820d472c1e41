"""Records for the tests of this folder: perturbations, and a finished run with two videos."""

from __future__ import annotations

import numpy as np
import tomli_w
from sample_material import ODD_TEXT, config_of, grey_jpegs, pair_of, video_row

from tempo.core.records import Perturbation
from tempo.core.store import RunStore
from tempo.preference.pairs import select_pairs
from tempo.video import find
from tempo.video.frames import FrameStore

NUM_FRAMES = 3


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def greys(request):
    """The grey level of each frame of a request."""
    return [int(np.median(frame)) for frame in request.frames]


def perturbation(kind, level, order, num_clips):
    shares = {"kept_share": len(order) / num_clips, "kendall_distance": 0.5}
    return Perturbation(kind=kind, level=level, order=order, num_clips=num_clips, **shares)


def make_videos(store, folder):
    """Two files with the names of videos, their rows and their frames; returns ids and paths."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, paths = [], [folder / "a film.mp4", folder / 'späť "2".mp4']
    for number, path in enumerate(paths):
        path.write_bytes(b"content of " + path.name.encode())
        ids.append(find.video_id(path))
        store.append("videos", [video_row(ids[-1], path, duration_seconds=3.0, width=96)])
        jpegs = grey_jpegs([20 + 40 * number + 5 * i for i in range(NUM_FRAMES)], (64, 96))
        FrameStore(store.directory / "frames").write(ids[-1], jpegs, seconds=range(NUM_FRAMES), fps=1.0)
    return ids, paths


def make_run(directory, **sections):
    """A run with two videos whose pairs are done; returns the pairs, of three kinds and levels."""
    store = RunStore(directory)
    (first, second), (one, two) = make_videos(store, directory.parent / "films")
    pairs = [
        pair_of(first, "drop", 16, (0, 2), video=str(one)),
        pair_of(first, "reverse", 2, (2, 3, 0, 1), video=str(one), system="Be brief."),
        pair_of(second, "shuffle", 8, (1, 0, 3, 2), video=str(two)),
        pair_of(second, "reverse", 16, (3, 2, 1, 0), video=str(two), rejected=ODD_TEXT),
    ]
    pairs.sort(key=lambda pair: pair.id)
    store.append("pairs", pairs)
    store.finish("pairs", "fingerprint")
    config = {"run": {"seed": 7}, "model": {"path": "some/model"}, "frames": {"fps": 1.0}, **sections}
    (directory / "config.toml").write_text(tomli_w.dumps(config))
    return pairs


def select(pairs, *, share=0, seed=0, **settings):
    """The selection of pairs under these settings, without reviews."""
    config = config_of(pairs=settings, evaluation={"held_out_share": share}, run={"seed": seed})
    return select_pairs(pairs, config, {})
