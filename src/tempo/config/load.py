"""The whole configuration, read from TOML, and the checks that concern several sections."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from tempo.config.base import Section
from tempo.config.data import ClipsConfig, FramesConfig, ShotsConfig, SyntheticConfig, VideosConfig
from tempo.config.preference import (
    AuditConfig,
    CaptionsConfig,
    PairsConfig,
    PerturbationsConfig,
    ResponsesConfig,
)
from tempo.config.running import EndpointConfig, EvaluationConfig, ModelConfig, ReportConfig, RunConfig
from tempo.config.training import TrainingConfig
from tempo.core.files import describe_error


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
    def _check_sources(self) -> Config:
        """Refuses files that the run would ignore, and the lack of files that it needs."""
        if (self.synthetic is None) == (not self.videos.paths):
            raise ValueError("give either videos.paths or a [synthetic] section, not both")
        for key, path in (
            ("evaluation.benchmark", self.evaluation.benchmark),
            ("training.instructions", self.training.instructions),
        ):
            if self.synthetic and path:
                raise ValueError(f"{key} {path!r} has no effect when [synthetic] is given. Remove one.")
        has_sft = any(phase.objective == "sft" for phase in self.training.phases)
        if has_sft and not (self.synthetic or self.training.instructions):
            raise ValueError("an SFT phase needs training.instructions, a file with questions and answers")
        return self

    @model_validator(mode="after")
    def _check_pairs_of_phases(self) -> Config:
        """Refuses phases that ask for pairs which the run does not make; imported pairs are not known yet."""
        if self.pairs.import_from:
            return self
        for phase in self.training.phases:
            if phase.objective == "sft":
                continue
            for key, values in (("levels", phase.levels), ("kinds", phase.kinds)):
                if unknown := [value for value in values if value not in getattr(self.perturbations, key)]:
                    raise ValueError(
                        f"phase {phase.name!r} asks for {key} {unknown}. Add them to perturbations.{key}"
                    )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Config:
        """Refuses phases that cannot train the model in its data type."""
        if self.training.phases and self.model.dtype == "float16":
            raise ValueError(
                "model.dtype 'float16' cannot be trained, as gradients vanish or overflow. Use bfloat16"
            )
        for phase in self.training.phases:
            if self.model.quantization != "none" and not phase.lora_rank:
                raise ValueError(
                    f"phase {phase.name!r}: lora_rank 0 trains the weights themselves, which is not possible "
                    f"with model.quantization {self.model.quantization!r}. Set lora_rank, for example to 32"
                )
        return self


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration of a TOML file with `section.key=value` overrides, values in TOML syntax.

    Raises ValueError with one line per problem, which names the key and shows the value.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist; `tempo init` writes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"config file {path} cannot be read as TOML: {error}") from None
    return parse_config(override(data, overrides))


def parse_config(data: dict[str, Any]) -> Config:
    """The checked configuration of plain data; raises ValueError as `load_config` does."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ValueError("\n".join(describe_error(item, Config) for item in error.errors())) from None


def override(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Applies `section.key=value` overrides to the data in place and returns it.

    Raises ValueError for an override with another form or into a list.
    """
    for one in overrides:
        key, separator, value = one.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise ValueError(f"--set {one!r}: write it as section.key=value")
        section = data
        for part in parts[:-1]:
            section = section.setdefault(part, {})
            if isinstance(section, list):
                raise ValueError(f"--set {one!r}: {part!r} is a list; change it in the file, or set it whole")
            if not isinstance(section, dict):
                raise ValueError(f"--set {one!r}: {part!r} is not a section")
        section[parts[-1]] = _parse_value(value)
    return data


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # Text without quotes, as people type it in a shell.
        return text
