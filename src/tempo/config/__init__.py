"""The configuration: one pydantic model per section of the TOML file, with defaults and limits."""

from tempo.config.base import NAME_PATTERN, Section
from tempo.config.data import ClipsConfig, FramesConfig, ShotsConfig, SyntheticConfig, VideosConfig
from tempo.config.load import Config, load_config, parse_config
from tempo.config.preference import (
    AuditConfig,
    CaptionsConfig,
    PairsConfig,
    PerturbationsConfig,
    ResponsesConfig,
    SamplingConfig,
)
from tempo.config.running import EndpointConfig, EvaluationConfig, ModelConfig, ReportConfig, RunConfig
from tempo.config.training import DpoPhase, LogpReduction, Loss, PhaseConfig, SftPhase, TrainingConfig

__all__ = [
    "NAME_PATTERN",
    "AuditConfig",
    "CaptionsConfig",
    "ClipsConfig",
    "Config",
    "DpoPhase",
    "EndpointConfig",
    "EvaluationConfig",
    "FramesConfig",
    "LogpReduction",
    "Loss",
    "ModelConfig",
    "PairsConfig",
    "PerturbationsConfig",
    "PhaseConfig",
    "ReportConfig",
    "ResponsesConfig",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "SftPhase",
    "ShotsConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "VideosConfig",
    "load_config",
    "parse_config",
]
