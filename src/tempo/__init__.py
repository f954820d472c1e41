"""tempo teaches Video LLMs the order of time.

The names below are the public API. Each is imported from its module on first use, so `import tempo` loads
neither torch nor any other heavy package.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_MODULES = {
    "Config": "tempo.config",
    "load_config": "tempo.config",
    "run": "tempo.pipeline",
    "find_shots": "tempo.video.shots",
    "find_clips": "tempo.video.selection",
    "read_frames": "tempo.video.frames",
    "perturb": "tempo.preference.perturbations",
    "load_model": "tempo.model.loading",
    "VideoLM": "tempo.model.chat",
    "Prefix": "tempo.model.chat",
    "Continuation": "tempo.model.chat",
    "log_probs": "tempo.model.chat",
    "dpo_loss": "tempo.training.losses",
    "sft_loss": "tempo.training.losses",
    "Pair": "tempo.core.records",
    "load_pairs": "tempo.preference.importing",
    "export_pairs": "tempo.preference.exporting",
    "audit": "tempo.preference.audit",
    "probe": "tempo.evaluation.probe",
    "evaluate": "tempo.evaluation.evaluate",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use; raises AttributeError for any other name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
