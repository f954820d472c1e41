"""Pictures of shots by which clips are made. Which of them are wanted is known only once all shots are.

Those that did not fit in memory until then are missing, and taken from a second pass over the file: where
frames are stored large (`frames.max_pixels`), more so where a learned detector tells of a cut late.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tempo.config import Config
from tempo.core.records import Shot
from tempo.engine.types import SkipRecord
from tempo.video.decoding import Picture
from tempo.video.frames import Looks, encode_jpeg
from tempo.video.grouping import check_shots, find_clips
from tempo.video.sampling import fit_size
from tempo.video.shrinking import Small
from tempo.video.waiting import Held

#: What pictures may take in memory until it is known which of them are wanted; beyond that they become JPEGs.
ALBUM_BYTES = 16 << 20


class Album:
    """Of one video, whose first picture has this width and height, the pictures that may be wanted."""

    def __init__(self, size: tuple[int, int], config: Config) -> None:
        self._config = config
        self._size = fit_size(*size, max_pixels=config.frames.max_pixels)
        self._pictures: dict[int, Picture | Small] = {}
        self._jpegs: dict[int, bytes] = {}
        self._middles: list[int] = []
        self._is_open = True

    def add(self, shots: Sequence[Shot], middle: Held, candidates: Sequence[Held]) -> None:
        """Takes the pictures of the last of these usable shots, if clips may still be made of the video."""
        clips = self._config.clips
        if len(shots) > clips.max_shots or shots[-1].seconds > clips.max_shot_seconds:
            self._is_open = False
            self._pictures.clear()
            self._jpegs.clear()
        if self._is_open:
            # The embedded descriptor has seen all that it needs of the middle.
            wanted = candidates if clips.features == "embedded" else (middle, *candidates)
            self._pictures.update((one.index, one.source) for one in wanted if one.is_whole)
            self._middles.append(middle.index)
            if sum(picture.num_bytes for picture in self._pictures.values()) > ALBUM_BYTES:
                self._jpegs.update((number, self._jpeg(number)) for number in self._pictures)
                self._pictures.clear()

    def missing(self, shots: Sequence[Shot]) -> set[int]:
        """Numbers of the frames that are wanted, given all usable shots of the video, and are not here."""
        return {*itertools.chain(*self._wanted(shots))} - self._pictures.keys() - self._jpegs.keys()

    def put(self, picture: Picture) -> None:
        """Takes one that was missing."""
        self._jpegs[picture.index] = self._jpeg_of(picture)

    def looks(self, shots: Sequence[Shot]) -> Looks | None:
        """What is wanted of all usable shots of the video; None where no clips can be made of them."""
        candidates, middles = self._wanted(shots)
        if not candidates:
            return None
        return Looks({number: self._jpeg(number) for number in candidates}, [*map(self._jpeg, middles)])

    def _wanted(self, shots: Sequence[Shot]) -> tuple[list[int], list[int]]:
        """Numbers of the frames that may become key frames, and of those that an embedder will look at."""
        clips = self._config.clips
        try:
            check_shots(shots, clips)
            if clips.features == "embedded":
                return [number for clip in find_clips(shots, clips) for number in clip.key_frames], []
        except SkipRecord:
            return [], []
        return [number for shot in shots for number in shot.candidates], self._middles

    def _jpeg(self, number: int) -> bytes:
        return self._jpegs.get(number) or self._jpeg_of(self._pictures[number])

    def _jpeg_of(self, picture: Picture | Small) -> bytes:
        return encode_jpeg(picture.scaled(*self._size), self._config.frames.jpeg_quality)
