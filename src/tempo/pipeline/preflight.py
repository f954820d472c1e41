"""Checks that report early, before hours of work, what a later stage would fail on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tempo.config import Config
from tempo.engine.types import Context
from tempo.model.loading import check_model_path


def check_paths(config: Config, file_keys: Iterable[str]) -> None:
    """Raises ValueError for a file, folder or checkpoint that the configuration names and that is missing.

    `file_keys` are the `section.key` that name a file or are empty.
    """
    check_model_path(config.model.path)
    for key in file_keys:
        section, _, name = key.partition(".")
        if value := getattr(getattr(config, section), name):
            _check_path(key, str(value), Path(value), Path.is_file)
    for path in config.videos.paths:
        _check_path("videos.paths", repr(path), Path(path).expanduser(), Path.exists)


def _check_path(key: str, shown: str, path: Path, exists: Callable[[Path], bool]) -> None:
    try:
        found = exists(path)
    except OSError as error:
        # In a folder without permission; later versions of Python return False.
        raise ValueError(f"{key}: {shown} cannot be reached: {error.strerror}") from None
    if not found:
        raise ValueError(f"{key}: {shown} does not exist")


def check_detector(config: Config) -> None:
    """Raises ValueError if the package of `shots.detector` is not installed."""
    from tempo.video.detectors import check_detector

    check_detector(config.shots)


def check_embedder(config: Config) -> None:
    """Raises ValueError if the checkpoint of `clips.features` cannot be loaded."""
    if config.clips.features != "embedded":
        from tempo.video.clips import load_pretrained

        # Without the weights.
        load_pretrained(config.clips.features, "AutoImageProcessor")


def check_server(config: Config) -> None:
    """Raises ValueError if the environment has no key for the server of `[endpoint]`."""
    if config.endpoint:
        from tempo.model.endpoint import read_api_key

        read_api_key(config.endpoint)


def check_instructions(config: Config) -> None:
    """Raises ValueError that names a bad row of `training.instructions`."""
    if config.training.instructions:
        from tempo.training.instructions import read_questions

        read_questions(Path(config.training.instructions))


def check_benchmark(config: Config) -> None:
    """Raises ValueError that names a bad row of `evaluation.benchmark`, or a video that is missing."""
    if config.evaluation.benchmark:
        from tempo.evaluation.benchmark import check_benchmark

        check_benchmark(Path(config.evaluation.benchmark))


def check_model(config: Config) -> None:
    """Raises ValueError if the model cannot be used, without loading its weights; takes seconds."""
    from tempo.model.loading import check_device, load_processor

    # On a Ray cluster the devices are those of its machines.
    if config.run.engine == "local":
        check_device(config.model.device)
    load_processor(config.model.path, trust_remote_code=config.model.trust_remote_code)


def check_trainable(context: Context) -> None:
    """Raises ValueError for an instruction about an unknown video, and for a video too long to train on."""
    from tempo.training.examples import check_longest
    from tempo.training.instructions import check_videos

    check_videos(context)
    if context.config.training.phases:
        check_longest(context)
