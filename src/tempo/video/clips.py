"""The third stage: videos rich in time, their clips, and two key frames for each clip."""

from __future__ import annotations

from collections.abc import Collection

from tempo.config import Config
from tempo.core.records import Clips, Shots
from tempo.engine.types import Context, SkipRecord, Worker
from tempo.video.features import load_embedder
from tempo.video.frames import FrameStore, Looks
from tempo.video.grouping import check_shots, find_clips
from tempo.video.shots import look_through
from tempo.video.videos import per_record


def make_worker(context: Context) -> Worker:
    """A worker that maps Shots to Clips, adds their key frames to the frame store, or gives a Skipped.

    Raises ValueError where `clips.features` names no checkpoint that can be used.
    """
    store = FrameStore(context.directory / "frames")
    config = context.config
    named = config.clips.features
    embed = None if named == "embedded" else load_embedder(named, config.model.device)

    def cut(video: Shots) -> Clips:
        try:
            check_shots(video.shots, config.clips)
            seen = embed(_looks(video, store, config).middles) if embed else None
            clips = find_clips(video.shots, config.clips, seen)
            numbers = [number for clip in clips for number in clip.key_frames]
            looks = _looks(video, store, config, numbers)
            store.write_key_frames(video.id, [looks.candidates[number] for number in numbers])
        except SkipRecord:
            # The training frames stay: instructions may ask about any video, and with other thresholds
            # (--redo) this one may be taken up.
            store.discard_looks(video.id)
            raise
        # Not where the machine failed: the next start needs them, and the file may be gone by then.
        store.discard_looks(video.id)
        return Clips(id=video.id, path=video.path, duration_seconds=video.duration_seconds, clips=clips)

    return per_record("clips", cut)


def _looks(video: Shots, store: FrameStore, config: Config, numbers: Collection[int] = ()) -> Looks:
    """What the shots stage kept, with the frames of these numbers; raises SkipRecord.

    Made again, by the same pass, where it was discarded, or `[clips]` has changed and asks for others.
    """
    looks = store.read_looks(video.id)
    lacks_middles = looks is not None and config.clips.features != "embedded" and not looks.middles
    if looks is None or lacks_middles or not looks.candidates.keys() >= set(numbers):
        look_through(video.path, video.id, store, config)
        looks = store.read_looks(video.id)
    assert looks is not None, "kept for every video of which clips are made"
    return looks
