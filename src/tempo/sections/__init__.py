"""The sections of the configuration, one per stage; each states its defaults and refuses bad values."""

from tempo.sections.base import NAME_PATTERN, Section
from tempo.sections.data import ClipsConfig, FramesConfig, ShotsConfig, SyntheticConfig, VideosConfig
from tempo.sections.preference import (
    AuditConfig,
    CaptionsConfig,
    PairsConfig,
    PerturbationsConfig,
    ResponsesConfig,
    SamplingConfig,
)
from tempo.sections.results import EvaluationConfig, ReportConfig
from tempo.sections.running import EndpointConfig, ModelConfig, RunConfig
from tempo.sections.training import Length, Loss, PhaseConfig, TrainingConfig

__all__ = [
    "NAME_PATTERN",
    "AuditConfig",
    "CaptionsConfig",
    "ClipsConfig",
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
]
