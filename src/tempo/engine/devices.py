"""The device that `model.device` names."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
