"""Loading a Hugging Face video-language checkpoint: path, device, processor, weights.

Nothing heavy is imported before it is needed, so a wrong path is an error within milliseconds.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from tempo.model.chat import VideoLM

EMBEDDED = "embedded"


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
    checkpoint cannot be loaded, its weights are not those of its family, or its family is not supported.
    """
    # The processor first: its loading repairs torchvision, which transformers imports.
    processor = load_processor(path, trust_remote_code=trust_remote_code)
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
    from transformers.utils import logging

    from tempo.engine.ranks import pick_device
    from tempo.model.attention import register_shared_prefix
    from tempo.model.chat import VideoLM

    # Each phase loads a checkpoint: a progress bar each time would hide the progress of the run.
    logging.disable_progress_bar()
    register_shared_prefix()
    place = pick_device(device)
    options: dict[str, Any] = {
        "dtype": pick_dtype(dtype, place),
        "trust_remote_code": trust_remote_code,
        # Missing weights would be random. `_check_keys` names them all.
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if quantization == "4bit" or place.type == "meta":
        options["device_map"] = {"": place}
    with _named_errors(path):
        if quantization == "4bit":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
            )
        model, found = AutoModelForImageTextToText.from_pretrained(resolve_model_path(path), **options)
    _check_keys(path, found)
    use_shared_prefix(model)
    # bitsandbytes has placed quantized weights already, and does not allow moving them.
    return VideoLM((model if quantization == "4bit" else model.to(place)).eval(), processor)


def load_processor(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The processor of a model, without its weights. Raises ValueError that names the path."""
    check_model_path(path)
    repair_torchvision()
    from transformers import AutoProcessor

    from tempo.model.support import check_processor

    with _named_errors(path):
        processor = AutoProcessor.from_pretrained(
            resolve_model_path(path), trust_remote_code=trust_remote_code
        )
    check_processor(processor)
    return processor


def _check_keys(path: str | Path, found: dict[str, Any]) -> None:
    """Raises ValueError that names weights which the checkpoint lacks, or which its family does not have."""
    kinds = {"missing_keys": "missing", "unexpected_keys": "unknown", "mismatched_keys": "of another shape"}
    faults = []
    for kind, words in kinds.items():
        names = sorted(key if isinstance(key, str) else key[0] for key in found[kind])
        if names:
            faults.append(f"{len(names)} are {words} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})")
    if faults:
        raise ValueError(
            f"model.path {str(path)!r}: its weights do not fit the family in its config.json: "
            f"{'; '.join(faults)}. Use a checkpoint as `save_pretrained` writes it"
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
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"model.path {str(path)!r} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)


def use_shared_prefix(model: Any) -> None:
    """Switches the language model, but not the vision tower, to shared-prefix attention.

    Raises ValueError if the shared prefix does not support the model.
    """
    from tempo.model.attention import NAME
    from tempo.model.support import check_support

    check_support(model)
    text_config = model.config.get_text_config()
    name = next(n for n in model.config.sub_configs if getattr(model.config, n, None) is text_config)
    model.set_attn_implementation({name: NAME})


def resolve_model_path(path: str | Path) -> str:
    """The directory or hub name that transformers loads for `model.path`."""
    return str(embedded_path() if str(path) == EMBEDDED else Path(path).expanduser())


def embedded_path() -> Path:
    """The directory of the embedded model in the installed package."""
    return Path(__file__).parents[1] / "synthetic" / "model"


def check_model_path(path: str | Path) -> None:
    """Raises ValueError if `path` looks like a directory but does not exist or has no checkpoint.

    Whether a hub name (`owner/name`) exists is not checked here.
    """
    name, local = str(path), Path(resolve_model_path(path))
    if local.exists():
        if not (local / "config.json").exists():
            raise ValueError(
                f"model.path {name!r} has no config.json. Give the directory of a Hugging Face checkpoint"
            )
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ValueError(
            f"model.path {name!r} does not exist. Give a checkpoint directory, a hub name or {EMBEDDED!r}"
        )


def check_device(name: str) -> None:
    """Raises ValueError if this machine does not have the device."""
    import torch

    from tempo.engine.ranks import pick_device

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

    PyPI's torchvision expects the CUDA build of torch. With the CPU build its import fails, because it
    registers meta kernels for two operators that only its compiled part defines. transformers needs only
    its Python part.
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
