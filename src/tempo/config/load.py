"""The whole configuration, read from TOML, and the checks that concern several sections."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

import tempo.config.data as data
import tempo.config.running as running
from tempo.core.files import describe_error


class Config(running.Section):
    """The configuration of a whole run."""

    run: running.RunConfig = running.RunConfig()
    model: running.ModelConfig = running.ModelConfig()
    endpoint: running.EndpointConfig | None = None
    synthetic: data.SyntheticConfig | None = None
    videos: data.VideosConfig = data.VideosConfig()
    frames: data.FramesConfig = data.FramesConfig()
    shots: data.ShotsConfig = data.ShotsConfig()
    clips: data.ClipsConfig = data.ClipsConfig()
    captions: data.CaptionsConfig = data.CaptionsConfig()
    perturbations: data.PerturbationsConfig = data.PerturbationsConfig()
    responses: data.ResponsesConfig = data.ResponsesConfig()
    pairs: data.PairsConfig = data.PairsConfig()
    audit: data.AuditConfig = data.AuditConfig()
    training: running.TrainingConfig = running.TrainingConfig()
    evaluation: running.EvaluationConfig = running.EvaluationConfig()
    report: running.ReportConfig = running.ReportConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Raises ValueError if videos or instructions are missing, or if a phase cannot run."""
        if (self.synthetic is None) == (not self.videos.paths):
            raise ValueError("give either videos.paths or a [synthetic] section, not both")
        has_sft = any(phase.objective == "sft" for phase in self.training.phases)
        if has_sft and not (self.synthetic or self.training.instructions):
            raise ValueError("an SFT phase needs training.instructions, a file with questions and answers")
        if self.training.phases and self.model.dtype == "float16":
            raise ValueError("model.dtype 'float16' cannot train: gradients underflow. Use 'bfloat16'")
        for phase in self.training.phases:
            if self.model.quantization != "none" and not phase.lora_rank:
                raise ValueError(
                    f"phase {phase.name!r}: lora_rank 0 trains the weights, which model.quantization "
                    f"{self.model.quantization!r} does not allow. Set lora_rank, for example to 32"
                )
            has_captions = self.responses.input_form == "captions" and not self.pairs.import_from
            if phase.objective == "grpo" and not has_captions:
                raise ValueError(
                    f"phase {phase.name!r}: objective 'grpo' compares descriptions with captions of clips, "
                    "which need responses.input_form = 'captions' and no pairs.import_from"
                )
            # The levels and kinds of imported pairs are not known yet.
            if phase.objective != "dpo" or self.pairs.import_from:
                continue
            for key in ("levels", "kinds"):
                made = getattr(self.perturbations, key)
                if unknown := [value for value in getattr(phase, key) if value not in made]:
                    raise ValueError(
                        f"phase {phase.name!r} uses {key} {unknown}, which are not generated. "
                        f"Add them to perturbations.{key}"
                    )
        return self


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The validated configuration from a TOML file; each override is `section.key=value` in TOML syntax.

    Raises ValueError with one line per problem, each of which names the key and shows the value.
    """
    try:
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist; `tempo init` writes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"config file {path} cannot be read as TOML: {error}") from None
    return parse_config(override(settings, overrides))


def parse_config(settings: dict[str, Any]) -> Config:
    """The validated configuration from plain data; raises ValueError as `load_config` does."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ValueError("\n".join(describe_error(item, Config) for item in error.errors())) from None


def override(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Applies `section.key=value` overrides in place and returns the settings.

    A value is TOML, or text without quotes, as people type it in a shell. Raises ValueError for an override
    that has another form or that refers to an item of a list.
    """
    for one in overrides:
        key, separator, value = one.partition("=")
        *sections, name = key.strip().split(".")
        if not separator or not all((*sections, name)):
            raise ValueError(f"--set {one!r}: write it as section.key=value")
        section = settings
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ValueError(f"--set {one!r}: {part!r} is not a section. Set it as a whole")
        try:
            section[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            section[name] = value
    return settings
