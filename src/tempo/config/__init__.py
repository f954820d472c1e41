"""The configuration: one pydantic model per section of the TOML file, with defaults and limits."""

from tempo.config.data import (
    AuditConfig,
    CaptionsConfig,
    ClipsConfig,
    FramesConfig,
    PairsConfig,
    PerturbationsConfig,
    ResponsesConfig,
    SamplingConfig,
    ShotsConfig,
    SyntheticConfig,
    VideosConfig,
)
from tempo.config.load import Config, load_config, parse_config
from tempo.config.running import EndpointConfig, EvaluationConfig, ModelConfig, ReportConfig, RunConfig
from tempo.config.training import DpoPhase, LogpReduction, Loss, PhaseConfig, SftPhase, TrainingConfig

__all__ = [
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
    "SftPhase",
    "ShotsConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "VideosConfig",
    "load_config",
    "parse_config",
]
