"""Videos of public benchmarks: files or folders of images, which may be inside zip archives."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2

from tempo.config import FramesConfig
from tempo.engine.types import SkipRecord
from tempo.video.decode import Frame, decode, open_video
from tempo.video.faults import Watchdog, watched
from tempo.video.frames import Frames, sample_frames

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

#: The rate of folders of images; only TVQA in MVBench has them.
FOLDER_FPS = 3.0

#: Sampled frames per wanted frame, so that the wanted ones can be taken from the middles of equal parts.
OVERSAMPLING = 3


@dataclass(frozen=True)
class Footage:
    """A video file or a folder of images; `stem` is its path in the benchmark's folder, without extension."""

    stem: str
    files: tuple[str, ...]
    is_folder: bool
    archive: zipfile.ZipFile | None

    @contextlib.contextmanager
    def open(self) -> Iterator[list[Path]]:
        """The paths of the files; for those in an archive, the paths of temporary copies."""
        if self.archive is None:
            yield [*map(Path, self.files)]
            return
        with tempfile.TemporaryDirectory(prefix="tempo-") as folder:
            copies = [Path(folder, Path(file).name) for file in self.files]
            for file, copy in zip(self.files, copies, strict=True):
                copy.write_bytes(self.archive.read(file))
            yield copies

    def sample(
        self,
        config: FramesConfig,
        part: tuple[float, float] = (0.0, math.inf),
        num_frames: int | None = None,
        *,
        timeout_seconds: float = 120.0,
    ) -> Frames:
        """Frames of the part between two times (seconds); raises SkipRecord.

        These are `num_frames` frames, from the middles of equal parts, or else those that `config` selects.
        """
        start, end = part
        with self.open() as paths:
            if num_frames:
                stated = len(paths) / FOLDER_FPS if self.is_folder else _stated_seconds(paths[0])
                seconds = min(stated, end) - start
                fps = OVERSAMPLING * num_frames / seconds if seconds > 0 else config.fps
                config = config.model_copy(update={"fps": fps, "max_frames": num_frames})

            def work(watchdog: Watchdog) -> Frames:
                frames = decode_images(paths) if self.is_folder else decode(paths[0], watchdog)
                return sample_frames(frames, config, start_seconds=start, end_seconds=end)

            return watched(work, timeout_seconds)


def _stated_seconds(path: Path) -> float:
    with open_video(path) as (container, _):
        return float((container.duration or 0) / av.time_base)


def decode_images(paths: list[Path]) -> Iterator[Frame]:
    """Images as frames of a video, in the order of the numbers in their names."""
    padded = functools.partial(re.sub, r"\d+", lambda number: number[0].zfill(12))
    for index, path in enumerate(sorted(paths, key=lambda path: padded(path.name))):
        if (image := cv2.imread(str(path))) is None:
            raise SkipRecord("not an image", str(path))
        decoded = av.VideoFrame.from_ndarray(image, format="bgr24")
        size = (image.shape[1], image.shape[0])
        yield Frame(index, index / FOLDER_FPS, (index + 1) / FOLDER_FPS, size, decoded)
