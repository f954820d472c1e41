"""The sections of the configuration, one per stage; each states its defaults and refuses bad values."""

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
from tempo.config.results import EvaluationConfig, ReportConfig
from tempo.config.running import EndpointConfig, ModelConfig, RunConfig
from tempo.config.training import Length, Loss, PhaseConfig, TrainingConfig

__all__ = [
    "NAME_PATTERN",
    "AuditConfig",
    "CaptionsConfig",
    "ClipsConfig",
    "Config",
    "EndpointConfig",
    "EvaluationConfig",
    "FramesConfig",
    "Length",
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
    "ShotsConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "VideosConfig",
    "load_config",
    "parse_config",
]
