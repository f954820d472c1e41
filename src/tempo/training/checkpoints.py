"""A phase stopped half-way: trained weights, optimizer and place, so that it goes on to the bit.

What processes hold in parts is written whole, so that any number of them can go on with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tempo.training.updates import MOMENTS, Updates

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def save_state(
    path: Path,
    parameters: NamedParameters,
    updates: Updates,
    place: Mapping[str, Any],
    *,
    writes: bool = True,
) -> None:
    """Writes trained weights, optimizer and `place` (plain JSON) into a directory, whole or not at all.

    Of several processes that hold a part of the weights each, all must call it and one `writes`.
    """
    from safetensors.torch import save_file

    tensors = dict(gather(_state(parameters, updates), keep=writes))
    if not writes:
        return
    with whole_directory(path) as directory:
        save_file(tensors, directory / "state.safetensors")
        (directory / "place.json").write_text(json.dumps(dict(place)), encoding="utf-8")
        for file in directory.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())


def _state(parameters: NamedParameters, updates: Updates) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in parameters:
        yield f"weight/{name}", parameter
        yield from ((f"{kind}/{name}", kept) for kind, kept in updates.kept(parameter).items())


def gather(named: Iterable[tuple[str, Tensor]], *, keep: bool) -> Iterator[tuple[str, Tensor]]:
    """The tensors as wholes: those held in parts on the CPU, others where they are; none without `keep`.

    A tensor in parts needs every process, also those that do not keep it.
    """
    for name, tensor in named:
        if isinstance(tensor, DTensor):
            # One by one: all of them may be more than a GPU holds.
            tensor = tensor.full_tensor()
            tensor = tensor.cpu() if keep else tensor
        if keep:
            yield name, tensor.detach().contiguous()


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill, which takes the place of `path` afterwards: whole or not at all.

    A kill between the two renames leaves what was there under the old name, `path` with `.old`.
    """
    temporary, old = (path.with_name(path.name + suffix) for suffix in (".tmp", ".old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if path.exists():
        # Only then: after a kill between the renames the old one is the only one.
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_state(path: Path, parameters: NamedParameters, updates: Updates) -> dict[str, Any] | None:
    """Puts weights and optimizer back as they were and returns the place; None where there is no state.

    The state before may be there under its old name alone (`whole_directory`). Processes that hold a part of
    the weights each must all call it.
    """
    from safetensors import safe_open

    kept = next((p for p in (path, path.with_name(f"{path.name}.old")) if p.exists()), None)
    if kept is None:
        return None
    with safe_open(kept / "state.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())
        for name, parameter in parameters:
            found = {k: f"{k}/{name}" for k in (*MOMENTS, "step") if f"{k}/{name}" in names}
            state = {kind: tensors.get_tensor(place) for kind, place in found.items()}
            updates.put(parameter, tensors.get_tensor(f"weight/{name}"), state)
    return json.loads((kept / "place.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def forget_state(path: Path) -> None:
    """Removes the state of a phase that is done."""
    for suffix in ("", ".old", ".tmp"):
        shutil.rmtree(path.with_name(path.name + suffix), ignore_errors=True)
