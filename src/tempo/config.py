"""The configuration: one section per stage, read from TOML; unknown keys and bad values are refused."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError, model_validator

from tempo.sections import (
    AuditConfig,
    CaptionsConfig,
    ClipsConfig,
    EndpointConfig,
    EvaluationConfig,
    FramesConfig,
    ModelConfig,
    PairsConfig,
    PerturbationsConfig,
    ReportConfig,
    ResponsesConfig,
    RunConfig,
    SamplingConfig,
    Section,
    ShotsConfig,
    SyntheticConfig,
    TrainingConfig,
    VideosConfig,
)

#: Stages whose place `pairs.import_from` takes.
IMPORTED_STAGES = ("clips", "captions", "perturbations", "responses")


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
        if (self.synthetic is None) == (not self.videos.paths):
            raise ValueError("give either videos.paths or a [synthetic] section: one of them, not both")
        if self.synthetic and self.evaluation.benchmark:
            raise ValueError("evaluation.benchmark would do nothing: the [synthetic] world brings its own")
        if self.responses.input_form != "captions" and self.captions != CaptionsConfig():
            raise ValueError(
                f"[captions] would do nothing: with responses.input_form {self.responses.input_form!r} "
                "nothing is captioned; remove it"
            )
        if self.pairs.import_from:
            _refuse_idle_sections(self)
        if self.endpoint:
            _check_endpoint(self)
        _check_phases(self)
        if self.run.rounds > 1:
            _check_rounds(self)
        return self


def _check_phases(config: Config) -> None:
    """Raises ValueError for phases that the rest of the configuration gives nothing to train on, or with."""
    unknown = {level for phase in config.training.phases for level in phase.levels} - set(
        config.perturbations.levels
    )
    # Pairs made elsewhere bring levels of their own; a phase that finds none says so in training.
    if unknown and not config.pairs.import_from:
        raise ValueError(f"training phases ask for levels {sorted(unknown)} that perturbations.levels lacks")
    _refuse_idle_order(config)
    if config.training.phases and config.model.dtype == "float16":
        raise ValueError(
            "model.dtype 'float16' cannot be trained: its gradients vanish or overflow; take bfloat16"
        )
    for phase in config.training.phases:
        if config.model.quantization != "none" and not phase.lora_rank:
            raise ValueError(
                f"phase {phase.name!r}: lora_rank 0 trains the weights themselves, which a model with "
                f"model.quantization {config.model.quantization!r} does not have; give a lora_rank"
            )
    if any(p.objective == "sft" for p in config.training.phases) and not (
        config.synthetic or config.training.instructions
    ):
        raise ValueError("an sft phase needs training.instructions (a JSONL file of questions and answers)")


def _refuse_idle_order(config: Config) -> None:
    """Raises ValueError for a phase that would go from easy to hard where pairs have a single level."""
    levels = config.perturbations.levels
    if config.pairs.import_from or len(levels) > 1:
        return
    for phase in config.training.phases:
        if phase.order == "adaptive":
            raise ValueError(
                f"phase {phase.name!r}: order = 'adaptive' would do nothing: perturbations.levels has the "
                f"single level {levels[0]}"
            )


def _refuse_idle_sections(config: Config) -> None:
    """Raises ValueError for settings of the stages whose place imported pairs take."""
    for name in IMPORTED_STAGES:
        if getattr(config, name) != Config.model_fields[name].default:
            raise ValueError(f"[{name}] would do nothing: the pairs come from pairs.import_from; remove it")


def _check_endpoint(config: Config) -> None:
    """Raises ValueError for settings that would do nothing with a server, or a server that would."""
    if config.pairs.import_from:
        raise ValueError("[endpoint] would do nothing: the pairs come from pairs.import_from; remove it")
    assert config.endpoint is not None
    asking = ["responses", *(["captions"] if config.responses.input_form == "captions" else [])]
    for name in asking:
        section = getattr(config, name)
        if section.batch_size != SamplingConfig().batch_size:
            raise ValueError(f"{name}.batch_size would do nothing: endpoint.concurrency takes its place")
        if config.endpoint.server == "other" and section.repetition_penalty != 1:
            raise ValueError(
                f"{name}.repetition_penalty {section.repetition_penalty} would do nothing: endpoint.server "
                "'other' has none; set it to 1.0, or name the server"
            )


def _check_rounds(config: Config) -> None:
    """Raises ValueError where a round after the first would have nothing new to learn from."""
    idle = f"run.rounds {config.run.rounds} would do nothing"
    if config.pairs.import_from:
        raise ValueError(f"{idle}: the pairs come from pairs.import_from; remove one of them")
    if not any(phase.objective == "dpo" for phase in config.training.phases):
        raise ValueError(f"{idle}: no phase of [training] has objective 'dpo'; add one, or remove run.rounds")
    if config.endpoint:
        raise ValueError(
            f"run.rounds {config.run.rounds} cannot be used with [endpoint]: the server would go on serving "
            "the model of the first round. Remove [endpoint]; or make each round a run of its own, with the "
            "`model/` of the one before as model.path and on the server"
        )
    if taken := [name for name in config.training.baselines if re.fullmatch(r"round_\d+", name)]:
        raise ValueError(f"baselines.{taken[0]}: with run.rounds {config.run.rounds} this name is taken")


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
    for override in overrides:
        _apply_override(data, override)
    return parse_config(data)


def parse_config(data: dict[str, Any]) -> Config:
    """The checked configuration of plain data; raises ValueError that names each offending key."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ValueError("\n".join(describe_error(item) for item in error.errors())) from None


def describe_error(error: Any, model: type[BaseModel] = Config) -> str:
    """One line for one pydantic error of `model`: the dotted key, the problem, the value."""
    key = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_known_keys(error['loc'], model)}"
    message = error["msg"].removeprefix("Value error, ")
    # The value that lacks a key is its whole section: long, and it might hold what nobody should read.
    shown = "" if error["type"] in ("value_error", "missing") else f" (got {error['input']!r})"
    return f"{key}: {message}{shown}"


def _known_keys(location: tuple[Any, ...], model: Any) -> str:
    """The keys that the section at `location[:-1]` does have, the likeliest first."""
    is_name = False
    for part in location[:-1]:
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        annotation = model.model_fields[part].annotation
        # What follows the key of a table of sections is a name that the user chose.
        is_name = get_origin(annotation) is dict
        candidates = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next(a for a in candidates if issubclass(a, BaseModel))
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known keys: {', '.join(known)}"


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
        if not isinstance(data, dict):
            raise ValueError(f"--set {override!r}: {part!r} is not a section")
    data[parts[-1]] = parsed
