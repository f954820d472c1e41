"""The configuration: one pydantic model per section of the TOML file, with defaults and limits."""

from tempo.config.data import (
    ClipsConfig,
    FramesConfig,
    PairsConfig,
    PerturbationsConfig,
    SamplingConfig,
    ShotsConfig,
    SyntheticConfig,
    VideosConfig,
)
from tempo.config.load import Config, load_config, parse_config
from tempo.config.running import (
    DpoPhase,
    EndpointConfig,
    GrpoPhase,
    ModelConfig,
    PhaseConfig,
    RunConfig,
    SftPhase,
)

__all__ = [
    "ClipsConfig",
    "Config",
    "DpoPhase",
    "EndpointConfig",
    "FramesConfig",
    "GrpoPhase",
    "ModelConfig",
    "PairsConfig",
    "PerturbationsConfig",
    "PhaseConfig",
    "RunConfig",
    "SamplingConfig",
    "SftPhase",
    "ShotsConfig",
    "SyntheticConfig",
    "VideosConfig",
    "load_config",
    "parse_config",
]
