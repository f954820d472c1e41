"""The data of a public benchmark as its authors publish it: its tables, and its videos by name.

Videos are files or folders of images, which may be inside zip archives.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import io
import json
import math
import posixpath
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import av
import cv2

from tempo.config import FramesConfig, VideosConfig
from tempo.core.hashing import hash_file
from tempo.engine.types import SkipRecord
from tempo.video.decode import Frame, decode
from tempo.video.faults import watched
from tempo.video.find import read_header
from tempo.video.frames import Frames, sample_frames

VIDEO_ENDINGS = tuple(f".{extension}" for extension in VideosConfig().extensions)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")

#: The rate of folders of images; only TVQA in MVBench has them.
FOLDER_FPS = 3.0

#: Sampled frames per wanted frame, so that the wanted ones can be taken from the middles of equal parts.
OVERSAMPLING = 3


class Row(dict[str, Any]):
    """A row of `table` without its null columns; `number` is its place, counted from 0."""

    def __init__(self, data: Data, table: Path, number: int, values: Mapping[str, Any]) -> None:
        super().__init__({name: value for name, value in values.items() if value is not None})
        self.data, self.table, self.number = data, table, number
        #: A Parquet file of the hub is named after its folder, the configuration.
        self.name = table.parent.name if "-of-" in table.stem else table.stem
        self.id = f"{self.name}/{number}"

    def __missing__(self, column: str) -> NoReturn:
        raise LookupError(f"no column {column!r}. The columns are {', '.join(self)}")


class Data:
    """The files of a benchmark; raises ValueError if the folder does not exist or has a damaged archive."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder. Give the folder with the files of the benchmark")
        self.folder = folder
        self.hashes: dict[str, str] = {}  #: Hashes of the tables that were read, by path in the folder.
        # Follows links, and leaves out hidden files.
        self._files = sorted(glob.glob("**/*", root_dir=folder, recursive=True))
        self._contents: dict[str, Any] = {}
        self._footage: dict[str, list[Footage]] = {}
        self._add("", self._files, None)
        for path in self._matching("*.zip"):
            try:
                # Archives stay open: their lists of members are read once.
                archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                advice = "Download it again, or unpack it"
                raise ValueError(f"{path} cannot be read: {error}. {advice}") from None
            self._add(f"{path.relative_to(folder).with_suffix('')}/", archive.namelist(), archive)

    def _add(self, start: str, files: Iterable[str], archive: zipfile.ZipFile | None) -> None:
        found: dict[tuple[str, bool], list[str]] = {}
        for name in files:
            if (is_image := name.lower().endswith(IMAGE_ENDINGS)) or name.lower().endswith(VIDEO_ENDINGS):
                stem = posixpath.dirname(name) if is_image else posixpath.splitext(name)[0]
                found.setdefault((stem, is_image), []).append(name if archive else str(self.folder / name))
        for (stem, is_folder), paths in found.items():
            footage = Footage(posixpath.normpath(start + stem), tuple(paths), is_folder, archive)
            self._footage.setdefault(posixpath.basename(stem), []).append(footage)

    @property
    def revision(self) -> str:
        """The commit of a snapshot in the cache of the Hugging Face hub; empty for any other folder."""
        found = re.search(r"/snapshots/([0-9a-f]{40})(/|$)", self.folder.absolute().as_posix())
        return found[1] if found else ""

    def find(self, name: str) -> Footage | None:
        """The video whose path, with its folders, ends with `name`; the extension may differ."""
        stem = posixpath.splitext(name)[0] if name.lower().endswith(VIDEO_ENDINGS) else name
        known = self._footage.get(posixpath.basename(stem), ())
        return next((one for one in known if f"/{one.stem}".endswith(f"/{stem}")), None)

    def first(self, *names: str) -> str:
        """The first of these names that is a video, or else the first name."""
        return next((name for name in names if self.find(name)), names[0])

    def rows(self, patterns: Sequence[str], flatten: Callable[[Any], Iterable[Any]]) -> Iterator[Row]:
        """The rows of all tables that match the first pattern with a match; raises ValueError for none."""
        tables = next((found for pattern in patterns if (found := self._matching(pattern))), [])
        if not tables:
            raise ValueError(f"{self.folder} has no file {' or '.join(patterns)}. Check the folder")
        for path in tables:
            self.hashes[path.relative_to(self.folder).as_posix()] = hash_file(path)
            for number, values in enumerate(flatten(read_table(path))):
                yield Row(self, path, number, values)

    def json(self, name: str) -> Any:
        """The content of the JSON file with this name, read once; an empty dict if there is none."""
        if name not in self._contents:
            self._contents[name] = next(map(read_table, self._matching(name)), {})
        return self._contents[name]

    def _matching(self, pattern: str) -> list[Path]:
        return [self.folder / name for name in self._files if PurePosixPath(name).match(pattern)]


def read_table(path: Path) -> Any:
    """The rows of a Parquet, CSV or JSONL file, or the content of a JSON file; raises ValueError."""
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        return json.loads(text)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


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
            yield [Path(self.archive.extract(file, folder)) for file in self.files]

    def sample(
        self,
        config: FramesConfig,
        part: Sequence[float] = (0.0, math.inf),
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
                header = None if self.is_folder else read_header(str(paths[0]), self.stem)
                seconds = min(header.duration_seconds if header else len(paths) / FOLDER_FPS, end) - start
                fps = OVERSAMPLING * num_frames / seconds if seconds > 0 else config.fps
                config = config.model_copy(update={"fps": fps, "max_frames": num_frames})

            frames = decode_images(paths) if self.is_folder else decode(paths[0])
            return sample_frames(
                watched(frames, timeout_seconds), config, start_seconds=start, end_seconds=end
            )


def decode_images(paths: list[Path]) -> Iterator[Frame]:
    """Images as frames of a video, in the order of the numbers in their names."""
    padded = functools.partial(re.sub, r"\d+", lambda number: number[0].zfill(12))
    for index, path in enumerate(sorted(paths, key=lambda path: padded(path.name))):
        if (image := cv2.imread(str(path))) is None:
            raise SkipRecord("not an image", str(path))
        decoded = av.VideoFrame.from_ndarray(image, format="bgr24")
        size = (image.shape[1], image.shape[0])
        yield Frame(index, index / FOLDER_FPS, (index + 1) / FOLDER_FPS, size, decoded)
