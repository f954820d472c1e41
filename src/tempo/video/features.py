"""What place a picture shows, as SigLIP or CLIP sees it: for grouping shots. S shots, D features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempo.video.frames import decode_jpegs

#: Features float [S, D] of JPEGs.
Embed: TypeAlias = Callable[[Sequence[bytes]], NDArray[np.float64]]

#: Pictures that go through the model together.
BATCH = 32


def check_embedder(checkpoint: str) -> None:
    """Raises ValueError where no such checkpoint can be read; loads no weights."""
    _load(checkpoint, "AutoImageProcessor")


def load_embedder(checkpoint: str, device: str = "auto") -> Embed:
    """Image features by a SigLIP or CLIP checkpoint, a directory or hub name, on a device as `model.device`.

    Raises ValueError where it cannot be read, or has no image features.
    """
    from tempo.engine.ranks import pick_device

    processor, model = _load(checkpoint, "AutoImageProcessor"), _load(checkpoint, "AutoModel")
    if not hasattr(model, "get_image_features"):
        kind = type(model).__name__
        raise ValueError(f"clips.features {checkpoint!r} is a {kind}; give a SigLIP or CLIP checkpoint")
    model = model.to(pick_device(device)).eval()

    def embed(jpegs: Sequence[bytes]) -> NDArray[np.float64]:
        batches = [jpegs[start : start + BATCH] for start in range(0, len(jpegs), BATCH)]
        return np.concatenate([_features(model, processor, batch) for batch in batches])

    return embed


def _load(checkpoint: str, name: str) -> Any:
    """What the class of transformers with this name makes of the checkpoint."""
    from tempo.model.loading import repair_torchvision

    repair_torchvision()
    import transformers

    try:
        return getattr(transformers, name).from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"clips.features {checkpoint!r} cannot be loaded: {error}") from None


def _features(model: Any, processor: Any, jpegs: Sequence[bytes]) -> NDArray[np.float64]:
    import torch

    inputs = processor(images=list(decode_jpegs(jpegs)), return_tensors="pt").to(model.device)
    with torch.inference_mode():
        found = model.get_image_features(**inputs)
    # A tensor, or an output that holds it, by version.
    features = getattr(found, "pooler_output", found)
    return np.asarray(features.float().cpu().numpy(), np.float64)
