"""Videos of public benchmarks: files or folders of images, which may be inside archives."""

from __future__ import annotations

import bisect
import contextlib
import functools
import io
import itertools
import math
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import av
import cv2

from tempo.config import FramesConfig
from tempo.engine.types import SkipRecord
from tempo.video.decode import Frame, decode, open_video
from tempo.video.faults import watched
from tempo.video.frames import Frames, sample_frames

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

Archive: TypeAlias = zipfile.ZipFile | tarfile.TarFile

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
    archive: Archive | None

    @contextlib.contextmanager
    def open(self) -> Iterator[Path]:
        """The path of the file or folder; for one in an archive, the path of a temporary copy."""
        name = "" if self.is_folder else Path(self.files[0]).name
        if self.archive is None:
            yield Path(self.files[0]).parent / name
            return
        with tempfile.TemporaryDirectory(prefix="tempo-") as folder:
            for file in self.files:
                Path(folder, Path(file).name).write_bytes(_read_member(self.archive, file))
            yield Path(folder, name)

    def sample(
        self,
        config: FramesConfig,
        *,
        num_frames: int | None = None,
        start_seconds: float = 0.0,
        end_seconds: float = math.inf,
        end_frame: int | None = None,
        timeout_seconds: float = 120.0,
    ) -> Frames:
        """Frames of the part between two times and before the frame `end_frame`; raises SkipRecord.

        These are `num_frames` frames, from the middles of equal parts, or else those that `config` selects.
        """
        with self.open() as path:
            if num_frames:
                stated = len(self.files) / FOLDER_FPS if self.is_folder else _stated_seconds(path)
                seconds = min(stated, end_seconds) - start_seconds
                fps = OVERSAMPLING * num_frames / seconds if seconds > 0 else config.fps
                config = config.model_copy(update={"fps": fps, "max_frames": num_frames})
            shown = watched(decode_images(path) if self.is_folder else decode(path), timeout_seconds)
            shown = itertools.islice(shown, end_frame)
            return sample_frames(shown, config, start_seconds=start_seconds, end_seconds=end_seconds)


def _stated_seconds(path: Path) -> float:
    with open_video(path) as (container, _):
        return float((container.duration or 0) / av.time_base)


def decode_images(folder: Path) -> Iterator[Frame]:
    """The images of a folder as frames of a video, in the order of the numbers in their names."""
    images = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
    padded = functools.partial(re.sub, r"\d+", lambda number: number[0].zfill(12))
    for index, path in enumerate(sorted(images, key=lambda path: padded(path.name))):
        if (image := cv2.imread(str(path))) is None:
            raise SkipRecord("not an image", str(path))
        decoded = av.VideoFrame.from_ndarray(image, format="bgr24")
        size = (image.shape[1], image.shape[0])
        yield Frame(index, index / FOLDER_FPS, (index + 1) / FOLDER_FPS, size, decoded)


def open_archives(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, Archive]]:
    """All zip and tar archives, by path without extension; the parts of a split tar are one archive."""
    parts: dict[str, list[Path]] = {}
    for name in files:
        if found := re.fullmatch(r"(.+?)\.(?:zip|tgz|tar(?:\.gz)?(?:\.part[._]?\w+)?)", name, re.IGNORECASE):
            parts.setdefault(found[1], []).append(folder / name)
    for stem, paths in parts.items():
        try:
            is_zip = paths[0].suffix.lower() == ".zip"
            # Archives stay open: their lists of members are read once.
            yield stem, zipfile.ZipFile(paths[0]) if is_zip else tarfile.open(fileobj=_Joined(paths))  # noqa: SIM115
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise ValueError(f"{paths[0]} cannot be read: {error}. Download it again, or unpack it") from None


def member_names(archive: Archive) -> list[str]:
    """The names of all members of an archive."""
    return archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames()


def _read_member(archive: Archive, name: str) -> bytes:
    member = archive.open(name) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(name)
    assert member, f"{name} is not a file"
    return member.read()


class _Joined(io.RawIOBase):
    """Files read as one, in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._at = paths, 0
        self._ends = list(itertools.accumulate(path.stat().st_size for path in paths))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._ends[-1])[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._ends[-1] - self._at)
        data, size = b"", left if size < 0 else min(left, size)
        while len(data) < size:
            number = bisect.bisect_right(self._ends, self._at)
            with self._paths[number].open("rb") as file:
                file.seek(self._at - self._ends[number], os.SEEK_END)
                part = file.read(size - len(data))
            data, self._at = data + part, self._at + len(part)
        return data
