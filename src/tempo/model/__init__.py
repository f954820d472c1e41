"""The model: loading, log-probabilities over a shared prefix, generated answers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempo.model.chat import Continuation, Prefix, VideoLM, log_probs
    from tempo.model.loading import load_model

__all__ = ["Continuation", "Prefix", "VideoLM", "load_model", "log_probs"]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that importing the package does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "tempo.model.loading" if name == "load_model" else "tempo.model.chat"
    return getattr(importlib.import_module(home), name)
