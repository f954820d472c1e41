"""Vision features on disk: a frozen vision tower encodes each video once, for all epochs and phases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempo.core.files import replace_file
from tempo.model.prefix import (
    Group,
    encode_videos,
    inner_model,
    language_model,
    merge_features,
    token_types,
)


class FeatureStore:
    """One file per video, `TOWER/PIXELS.safetensors`, named by hashes of tower weights and pixels."""

    def __init__(self, directory: Path, model: Any) -> None:
        language = {id(parameter) for parameter in language_model(model).parameters()}
        language |= {id(parameter) for parameter in model.get_output_embeddings().parameters()}
        tower = ((n, p) for n, p in inner_model(model).named_parameters() if id(p) not in language)
        self._directory = directory / hash_tensors(tower).hexdigest()[:16]

    @torch.no_grad()
    def encode(self, model: Any, groups: Sequence[Group]) -> dict[str, Any] | None:
        """The result of `encode_videos`; only videos that are not on disk are encoded."""
        found = [output for output in (self._one(model, group) for group in groups) if output]
        if not found:
            return None
        (modality,) = {name for output in found for name in output}
        return {modality: merge_features([output[modality] for output in found])}

    def _one(self, model: Any, group: Group) -> dict[str, Any] | None:
        text = {"input_ids", "attention_mask", *token_types(group.inputs)}
        vision = ((name, group.inputs[name]) for name in sorted(group.inputs) if name not in text)
        path = self._directory / f"{hash_tensors(vision).hexdigest()[:32]}.safetensors"
        if path.exists():
            return _unpack(load_file(path, device=str(model.get_input_embeddings().weight.device)))
        output = encode_videos(model, [group])
        if output is not None:
            # Several processes, also on different machines, may encode the same video.
            with replace_file(path, is_durable=False, is_shared=True) as temporary:
                save_file(_pack(output), temporary)
        return output


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> Any:
    """The SHA-256 object of names, shapes, dtypes and bytes, in the given order; it can still be updated."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest


def _pack(output: dict[str, Any]) -> dict[str, Tensor]:
    ((modality, features),) = output.items()
    tensors = {}
    for number, layer in enumerate(
        [features.pooler_output, *(getattr(features, "deepstack_features", None) or [])]
    ):
        # Some families return one tensor, others a list with one tensor per video; here it has length one.
        tensor, form = (layer, "tensor") if isinstance(layer, Tensor) else (torch.cat([*layer]), "list")
        tensors[f"{modality}/{number:03d}/{form}"] = tensor.contiguous()
    return tensors


def _unpack(tensors: dict[str, Tensor]) -> dict[str, Any]:
    layers = [tensors[key] if key.endswith("/tensor") else (tensors[key],) for key in sorted(tensors)]
    (modality,) = {key.split("/")[0] for key in tensors}
    return {modality: SimpleNamespace(pooler_output=layers[0], deepstack_features=layers[1:] or None)}
