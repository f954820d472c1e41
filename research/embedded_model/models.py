"""The untrained embedded models, with the configuration, tokenizer and template of the committed ones.

Qwen2.5-VL has four visual tokens for two frames at once. LLaVA-OneVision has four visual tokens for each
frame, and its language model relates the frames. Both are architectures of transformers. The byte-level BPE
tokenizer has one token for each word of the embedded world; other text is bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from tempo.engine.ranks import pick_device
from tempo.model.chat import VideoLM
from tempo.model.loading import embedded_path, repair_torchvision
from tempo.model.prefix import inner_model, language_model
from tempo.model.support import use_shared_prefix

#: Side in pixels of the frames that the models see.
FRAME_SIZE = 64

#: Directories of the committed models.
ARCHITECTURES = {"qwen2_5_vl": embedded_path(), "llava_onevision": Path(__file__).parent / "llava"}

#: Changes to the configuration for each size. `large` has 37 M parameters instead of 3.6 M, to test whether
#: results hold for larger models. The vision tower keeps its depth. Layers are few and wide, because small
#: kernels leave a GPU idle.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {},
    "large": {
        "text_config": {"hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 6}
        | {"layer_types": ["full_attention"] * 6, "num_attention_heads": 10, "num_key_value_heads": 10},
        "vision_config": {"hidden_size": 256, "intermediate_size": 640, "num_heads": 8}
        | {"out_hidden_size": 640},
    },
}


def build_model(architecture: str, *, size: str = "small", seed: int = 0, device: str = "auto") -> VideoLM:
    """The untrained model on its device, with its processor; only `qwen2_5_vl` has the size `large`.

    Weights are drawn on the CPU from `seed`, so they are the same on every device.
    """
    if size != "small" and architecture != "qwen2_5_vl":
        raise ValueError(f"{architecture} has no size {size!r}; use size small, or architecture qwen2_5_vl")
    repair_torchvision()
    processor = transformers.AutoProcessor.from_pretrained(ARCHITECTURES[architecture])
    config = transformers.AutoConfig.from_pretrained(ARCHITECTURES[architecture], dtype=torch.float32)
    for part, values in SIZES[size].items():
        for name, value in values.items():
            setattr(getattr(config, part), name, value)
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    use_shared_prefix(model)
    return VideoLM(model.to(pick_device(device)), processor)


def vision_parameters(model: Any) -> list[nn.Parameter]:
    """All parameters outside the language model and its head: vision tower, projector, separators."""
    text = {id(parameter) for parameter in language_model(model).parameters()}
    return [parameter for parameter in inner_model(model).parameters() if id(parameter) not in text]
