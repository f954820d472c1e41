"""What is looked at before any work: what is not there, and what is there and cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from tempo.config import Config
from tempo.engine import pool as engine
from tempo.model.loading import check_model_path
from tempo.pipeline.fingerprints import named_files

#: Stages that ask the server of an [endpoint] section, where there is one.
ENDPOINT_STAGES = ("captions", "responses")


def check_inputs(config: Config, left: Collection[str], *, with_model: bool) -> None:
    """Raises ValueError, before any work, for what the stages that are `left` will miss later.

    A path that leads nowhere, a package or a server's key that is not there, a row of instructions or of a
    benchmark that is none, a model that cannot be used. With `model.path` where `with_model`: rows that are
    there may be that model's.
    """
    engine.check_engine(config.run)
    if with_model:
        check_model_path(config.model.path)
    if config.endpoint and any(stage in left for stage in ENDPOINT_STAGES):
        from tempo.model.endpoint import read_api_key

        read_api_key(config.endpoint)
    for key, file in named_files(config).items():
        _check_path(key, str(file), file, Path.is_file)
    for path in config.videos.paths:
        _check_path("videos.paths", repr(path), Path(path).expanduser(), Path.exists)
    if config.training.instructions:
        from tempo.training.instructions import read_questions

        read_questions(Path(config.training.instructions))
    _check_stages(config, left)


def _check_stages(config: Config, left: Collection[str]) -> None:
    """Raises ValueError for what only some stages need, where these are left."""
    if config.evaluation.benchmark and "evaluation" in left:
        from tempo.evaluation.benchmark import check_benchmark

        check_benchmark(Path(config.evaluation.benchmark))
    if "shots" in left:
        from tempo.video.detectors import check_detector

        check_detector(config.shots)
    if "clips" in left and config.clips.features != "embedded":
        from tempo.video.features import check_embedder

        check_embedder(config.clips.features)
    # Last, since it takes seconds.
    if any(stage in left for stage in _model_stages(config)):
        from tempo.model.loading import check_device, load_processor

        # Ray's machines have devices of their own.
        if config.run.engine == "local":
            check_device(config.model.device)
        load_processor(config.model)


def _model_stages(config: Config) -> list[str]:
    """The stages that load the model of `model.path` under this configuration."""
    needs = {
        **dict.fromkeys(ENDPOINT_STAGES, config.endpoint is None),
        "audit": config.audit.max_model_pairs > 0,
        "training": bool(config.training.phases),
        "evaluation": bool(config.synthetic or config.evaluation.benchmark),
    }
    return [stage for stage, is_needed in needs.items() if is_needed]


def _check_path(key: str, shown: str, path: Path, is_there: Callable[[Path], bool]) -> None:
    """Raises ValueError that names `key` where `path` does not exist, or nobody may look."""
    try:
        found = is_there(path)
    except OSError as error:
        # Below a folder that may not be entered; later versions of Python say False.
        raise ValueError(f"{key}: {shown} cannot be reached: {error.strerror}") from None
    if not found:
        raise ValueError(f"{key}: {shown} does not exist")
