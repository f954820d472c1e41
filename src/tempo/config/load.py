"""The configuration: one section per stage, read from TOML; unknown keys and bad values are refused."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from tempo.config.base import Section
from tempo.config.checks import check_together
from tempo.config.data import ClipsConfig, FramesConfig, ShotsConfig, SyntheticConfig, VideosConfig
from tempo.config.preference import (
    AuditConfig,
    CaptionsConfig,
    PairsConfig,
    PerturbationsConfig,
    ResponsesConfig,
)
from tempo.config.results import EvaluationConfig, ReportConfig
from tempo.config.running import EndpointConfig, ModelConfig, RunConfig
from tempo.config.training import TrainingConfig
from tempo.core.errors import describe_error


class Config(Section):
    """A whole run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    endpoint: EndpointConfig | None = None
    synthetic: SyntheticConfig | None = None
    videos: VideosConfig = VideosConfig()
    frames: FramesConfig = FramesConfig()
    shots: ShotsConfig = ShotsConfig()
    clips: ClipsConfig = ClipsConfig()
    captions: CaptionsConfig = CaptionsConfig()
    perturbations: PerturbationsConfig = PerturbationsConfig()
    responses: ResponsesConfig = ResponsesConfig()
    pairs: PairsConfig = PairsConfig()
    audit: AuditConfig = AuditConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_together(self)
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration of a TOML file with `section.key=value` overrides, values in TOML syntax.

    Raises ValueError that names every offending key and shows its value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist; `tempo init` writes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"config file {path} cannot be read as TOML: {error}") from None
    return parse_config(override(data, overrides))


def parse_config(data: dict[str, Any]) -> Config:
    """The checked configuration of plain data; raises ValueError that names each offending key."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ValueError("\n".join(describe_error(item, Config) for item in error.errors())) from None


def override(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The data with `section.key=value` overrides, in place; raises ValueError for one that is none."""
    for one in overrides:
        _apply_override(data, one)
    return data


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ValueError(f"--set {override!r}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # A bare word is what people type in a shell; it can only be meant as a string.
        parsed = value
    for part in parts[:-1]:
        data = data.setdefault(part, {})
        if isinstance(data, list):
            raise ValueError(
                f"--set {override!r}: {part!r} is a list; change it in the file, or set it whole"
            )
        if not isinstance(data, dict):
            raise ValueError(f"--set {override!r}: {part!r} is not a section")
    data[parts[-1]] = parsed
