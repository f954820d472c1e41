"""What no section can refuse alone: options that do nothing, or cannot work, beside those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tempo.config.preference import CaptionsConfig, PairsConfig, SamplingConfig

if TYPE_CHECKING:
    from tempo.config.load import Config

#: Stages whose place `pairs.import_from` takes.
IMPORTED_STAGES = ("clips", "captions", "perturbations", "responses")


def check_together(config: Config) -> None:
    """Raises ValueError that names the key for sections that do not go together."""
    if (config.synthetic is None) == (not config.videos.paths):
        raise ValueError("give either videos.paths or a [synthetic] section: one of them, not both")
    if config.synthetic and config.evaluation.benchmark:
        raise ValueError("evaluation.benchmark would do nothing: the [synthetic] world brings its own")
    if config.responses.input_form != "captions" and config.captions != CaptionsConfig():
        raise ValueError(
            f"[captions] would do nothing: with responses.input_form {config.responses.input_form!r} "
            "nothing is captioned; remove it"
        )
    if config.pairs.import_from:
        _refuse_idle_sections(config)
    else:
        _refuse_idle_filters(config)
    if config.endpoint:
        _check_endpoint(config)
    _check_phases(config)


def _check_phases(config: Config) -> None:
    """Raises ValueError for phases that the rest of the configuration gives nothing to train on, or with."""
    _check_choice(config)
    _refuse_idle_order(config)
    _check_instructions(config)
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


def _check_choice(config: Config) -> None:
    """Raises ValueError for a phase that chooses pairs which are not made."""
    if config.pairs.import_from:
        # These bring levels and kinds of their own; a phase that finds none says so in training.
        return
    for key in ("levels", "kinds"):
        asked = {value for phase in config.training.phases for value in getattr(phase, key)}
        if unknown := asked - {*getattr(config.perturbations, key)}:
            raise ValueError(
                f"training phases ask for {key} {sorted(unknown)} that perturbations.{key} lacks"
            )


def _check_instructions(config: Config) -> None:
    """Raises ValueError for an sft phase without instructions, and for instructions that nothing reads."""
    has_sft = any(phase.objective == "sft" for phase in config.training.phases)
    if config.training.instructions and config.synthetic:
        raise ValueError("training.instructions would do nothing: the [synthetic] world brings its own")
    if config.training.instructions and not has_sft:
        raise ValueError("training.instructions would do nothing: no phase has objective 'sft'; remove it")
    if has_sft and not (config.synthetic or config.training.instructions):
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


def _refuse_idle_filters(config: Config) -> None:
    """Raises ValueError for rules of the pair filter about kinds that are not made."""
    kinds, pairs = config.perturbations.kinds, config.pairs
    if pairs.length == "any" and "drop" not in kinds:
        raise ValueError(
            "pairs.length 'any' would do nothing: it lets drop pairs be, and perturbations.kinds has no drop"
        )
    # Compared with the default, not with what was written: a run writes its defaults into config.toml.
    if pairs.max_length_ratio != PairsConfig().max_length_ratio and set(kinds) == {"drop"}:
        raise ValueError(
            f"pairs.max_length_ratio {pairs.max_length_ratio:g} would do nothing: drop pairs have no such "
            "limit, and perturbations.kinds has no other; remove it"
        )


def _refuse_idle_sections(config: Config) -> None:
    """Raises ValueError for settings of the stages whose place imported pairs take."""
    for name in IMPORTED_STAGES:
        if getattr(config, name) != type(config).model_fields[name].default:
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
