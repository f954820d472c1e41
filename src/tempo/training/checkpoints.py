"""A phase stopped half-way: trained weights, optimizer and place, so that it goes on to the bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: What AdamW keeps for each weight.
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def save_state(
    path: Path, parameters: NamedParameters, optimizer: torch.optim.Optimizer, place: Mapping[str, Any]
) -> None:
    """Writes trained weights, optimizer and `place` (plain JSON) into a directory, whole or not at all."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters:
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        kept = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": kept[moment] for moment in _MOMENTS if moment in kept}
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(tensors, temporary / "state.safetensors")
    (temporary / "place.json").write_text(json.dumps(dict(place)), encoding="utf-8")
    for file in temporary.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    old = path.with_name(f"{path.name}.old")
    if path.exists():
        # Only then: after a kill between the renames the old state is the only one.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_state(
    path: Path, parameters: NamedParameters, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Puts weights and optimizer back as they were and returns the place; None where there is no state.

    A kill between the two renames of `save_state` leaves the state before under its old name.
    """
    from safetensors import safe_open

    kept = next((p for p in (path, path.with_name(f"{path.name}.old")) if p.exists()), None)
    if kept is None:
        return None
    with safe_open(kept / "state.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())
        for name, parameter in parameters:
            with torch.no_grad():
                parameter.copy_(tensors.get_tensor(f"weight/{name}"))
            optimizer.state[parameter] = {
                moment: _like(tensors.get_tensor(f"{moment}/{name}"), parameter, moment)
                for moment in _MOMENTS
                if f"{moment}/{name}" in names
            }
    return json.loads((kept / "place.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _like(tensor: Tensor, parameter: nn.Parameter, moment: str) -> Tensor:
    # AdamW counts its steps on the CPU.
    return tensor if moment == "step" else tensor.to(parameter.device)


def forget_state(path: Path) -> None:
    """Removes the state of a phase that is done."""
    for suffix in ("", ".old", ".tmp"):
        shutil.rmtree(path.with_name(path.name + suffix), ignore_errors=True)
