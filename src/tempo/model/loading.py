"""Loading a Hugging Face video-language checkpoint: path, device, processor, weights.

Heavy libraries are imported only when they are needed, so a wrong path fails within milliseconds.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tempo.engine.ranks import pick_device

if TYPE_CHECKING:
    import torch

    from tempo.config import ModelConfig
    from tempo.model.chat import VideoLM

EMBEDDED = "embedded"

#: Models that have passed the self-check in this process.
_CHECKED: set[str] = set()


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    quantization: Literal["none", "4bit"] = "none",
    trust_remote_code: bool = False,
) -> VideoLM:
    """A video-language model with its processor, in evaluation mode and ready for the shared prefix.

    `path` is a checkpoint directory, a Hugging Face hub name, or "embedded" for the small model in this
    package. `device` is a torch device; "auto" is a GPU if there is one, and "meta" only checks that the
    checkpoint can be loaded. `dtype` "auto" is bfloat16 on a GPU, else float32. `quantization` "4bit" needs
    bitsandbytes. `trust_remote_code` runs code that comes with the checkpoint. Raises ValueError if the
    checkpoint cannot be loaded, its weights do not match its family, or its family is not supported.
    """
    # The processor is loaded first, because this repairs torchvision, which transformers imports.
    processor = load_processor(path, trust_remote_code=trust_remote_code)
    from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig
    from transformers.utils import logging

    from tempo.model.chat import VideoLM
    from tempo.model.support import prepare, use_shared_prefix

    # A progress bar for every checkpoint would hide the progress of the run.
    logging.disable_progress_bar()
    torch_device = pick_device(device)
    options: dict[str, Any] = {
        "dtype": pick_dtype(dtype, torch_device),
        "trust_remote_code": trust_remote_code,
        # Missing weights would be random; `_check_keys` raises an error for them.
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if quantization == "4bit" or torch_device.type == "meta":
        options["device_map"] = {"": torch_device}
    with _named_errors(path):
        if quantization == "4bit":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
            )
        name = resolve_model_path(path)
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        if hasattr(config, "thinker_config"):
            # Qwen Omni: only the part that takes videos and generates text.
            options |= {"config": config.thinker_config, "key_mapping": {r"^thinker\.": ""}}
        model, found = AutoModelForImageTextToText.from_pretrained(name, **options)
    _check_keys(path, found)
    for layer in model.modules():
        # bitsandbytes repacks weights on CPUs with AVX512-BF16, after which they cannot be trained.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    # bitsandbytes has already placed quantized weights, and does not allow moving them.
    lm = VideoLM((model if quantization == "4bit" else model.to(torch_device)).eval(), processor)
    if name in _CHECKED or torch_device.type == "meta":
        use_shared_prefix(lm.model)
    else:
        prepare(lm)
        _CHECKED.add(name)
    return lm


def load_processor(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The processor of a model, without its weights. Raises ValueError that names the path."""
    check_model_path(path)
    repair_torchvision()
    from transformers import AutoProcessor

    from tempo.model.support import check_processor
    from tempo.model.template import template_of

    with _named_errors(path):
        processor = AutoProcessor.from_pretrained(
            resolve_model_path(path), trust_remote_code=trust_remote_code
        )
    check_processor(processor)
    with _named_errors(path):
        template_of(processor)
    return processor


def _check_keys(path: str | Path, found: dict[str, Any]) -> None:
    """Raises ValueError that names weights which the checkpoint lacks, or which its family does not have."""
    # Qwen Omni's parts for speech.
    known = ("talker.", "token2wav.", "code2wav.")
    kinds = {"missing_keys": "missing", "unexpected_keys": "unknown", "mismatched_keys": "of another shape"}
    faults = []
    for kind, words in kinds.items():
        names = sorted(key if isinstance(key, str) else key[0] for key in found[kind])
        names = [name for name in names if not name.startswith(known)]
        if names:
            faults.append(f"{len(names)} are {words} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})")
    if faults:
        raise ValueError(
            f"model.path {str(path)!r}: its weights do not match the family in its config.json: "
            f"{'; '.join(faults)}. Use a checkpoint written by `save_pretrained`"
        )


def read_config(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a checkpoint, or of the part that takes videos and generates text."""
    from transformers import AutoConfig

    with _named_errors(path):
        config = AutoConfig.from_pretrained(resolve_model_path(path), trust_remote_code=trust_remote_code)
    return getattr(config, "thinker_config", config)


def load_without_weights(model: ModelConfig) -> tuple[VideoLM, int]:
    """A processor without a model, and the largest number of tokens that the model supports."""
    from tempo.model.chat import VideoLM, max_positions

    lm = VideoLM(None, load_processor(model.path, trust_remote_code=model.trust_remote_code))
    return lm, max_positions(read_config(model.path, trust_remote_code=model.trust_remote_code))


def frame_rate_warning(config: Any, fps: float) -> str:
    """A warning if several time steps of a video share a position at this rate; empty otherwise.

    Qwen2.5-VL rounds times to 1 / `tokens_per_second` (`get_rope_index`); a time step spans several frames.
    """
    vision = getattr(config, "vision_config", None)
    limit = getattr(vision, "temporal_patch_size", 1) * (
        getattr(vision, "tokens_per_second", None) or math.inf
    )
    if fps <= limit:
        return ""
    return (
        f"warning: frames.fps is {fps:g}, but {config.model_type} has separate positions for at most "
        f"{limit:g} frames per second: {1 - limit / fps:.0%} of the time steps share the position of the "
        f"previous one. Set frames.fps to {limit:g} or less"
    )


@contextmanager
def _named_errors(path: str | Path) -> Iterator[None]:
    """Turns the errors that transformers raises for a bad checkpoint into ValueError with its path."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # The error is enough; transformers would also print a table of all weights that do not fit.
    logging.set_verbosity_error()
    try:
        yield
    # Damaged files raise errors of many types, such as SafetensorError.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"model.path {str(path)!r} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)


def build_model(config: Any, *, dtype: torch.dtype) -> Any:
    """The model of a configuration with shapes but no weights, on the meta device."""
    import torch

    repair_torchvision()
    from transformers import AutoModelForImageTextToText

    from tempo.model.support import use_shared_prefix

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    use_shared_prefix(model)
    return model.eval()


def resolve_model_path(path: str | Path) -> str:
    """The directory or hub name that transformers loads for `model.path`."""
    return str(embedded_path() if str(path) == EMBEDDED else Path(path).expanduser())


def embedded_path() -> Path:
    """The directory of the embedded model in the installed package."""
    return Path(__file__).parents[1] / "synthetic" / "model"


def check_model_path(path: str | Path) -> None:
    """Raises ValueError if `path` is not a checkpoint directory and not like a hub name (`owner/name`)."""
    name, local = str(path), Path(resolve_model_path(path))
    is_hub_name = not local.exists() and name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not (is_hub_name or (local / "config.json").exists()):
        raise ValueError(
            f"model.path {name!r} does not exist or has no config.json. Give the directory of a Hugging Face "
            f"checkpoint, a hub name or {EMBEDDED!r}"
        )


def check_device(name: str) -> None:
    """Raises ValueError if this machine does not have the device."""
    import torch

    device = pick_device(name)
    if (device.index or 0) >= torch.get_device_module(device).device_count():
        raise ValueError(f"model.device {name!r} is not on this machine. Use 'auto' or another device")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return getattr(torch, name)  # type: ignore[no-any-return]


def repair_torchvision() -> None:
    """Makes `import torchvision` work if its compiled part is missing; changes nothing otherwise.

    PyPI's torchvision is built for CUDA. With a CPU build of torch its import fails, because it registers
    meta kernels for two operators that only its compiled part defines. transformers needs only the rest.
    """
    import torch

    if importlib.util.find_spec("torchvision") is None:
        raise ValueError("torchvision is not installed. Run: pip install --no-deps torchvision")
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        import torchvision  # noqa: F401
