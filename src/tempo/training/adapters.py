"""The model of a sequence of phases: a checkpoint that is loaded once, and the adapters learned on it.

LoRA phases stack. Finished phases are one frozen adapter, STACK, and the current phase trains a second
adapter, NEWEST, on top of it. After the phase NEWEST is appended to STACK: their ranks add up. On disk
the stack is a PEFT adapter. It is merged once, in float32, when a plain model is needed.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempo.config import ModelConfig, PhaseConfig
from tempo.core.files import replace_directory, write_json
from tempo.engine.ranks import pick_device, shards_weights
from tempo.model.chat import VideoLM
from tempo.model.loading import load_model, pick_dtype, resolve_model_path

STACK, NEWEST = "stack", "newest"

#: PEFT's name of an adapter weight in a file.
_FILE_NAME = "base_model.model.{}.lora_{}.weight"

#: Maps a module to LoRA's A [rank, in] and B [out, rank].
Adapter = dict[str, tuple[Tensor, Tensor]]


class TrainedModel:
    """The checkpoint `base` and the first `rank` ranks of the PEFT adapter in the directory `adapter`.

    It starts as the checkpoint of `config`. Every process has one; only process 0 writes files.
    """

    def __init__(self, config: ModelConfig, adapter: Path) -> None:
        self.base: str | Path = config.path
        self.rank = 0
        self.adapter = adapter
        #: The dtype of a checkpoint on disk, and of matrix products in training.
        self.dtype = pick_dtype(config.dtype, pick_device(config.device))
        self._config = config
        self._loaded: VideoLM | None = None

    @property
    def lm(self) -> VideoLM:
        """The model with the stack as a frozen adapter; it is loaded once."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self, **changes: Any) -> VideoLM:
        lm = load_model(**self._config.model_dump() | {"path": str(self.base)} | changes)
        if self.rank:
            _inject(lm.model, _read(self.adapter, self.rank))
        return lm

    @property
    def needs_plain(self) -> bool:
        """Whether the loaded weights are quantized or sharded, so that nothing can be merged into them."""
        return self._config.quantization != "none" or shards_weights()

    def merged(self) -> VideoLM:
        """The plain model, with the stack merged; on the CPU if loaded weights are quantized or sharded."""
        if not self.needs_plain:
            return self.for_inference()
        dtype = str(self.dtype).removeprefix("torch.")
        lm = self._load(quantization="none", device="cpu", dtype=dtype)
        remove_adapters(lm.model, merge=True)
        return lm

    def for_inference(self) -> VideoLM:
        """The model with the stack merged, on its device; quantized weights keep it as an adapter."""
        lm, self._loaded = self.lm, None
        if self._config.quantization == "none":
            remove_adapters(lm.model, merge=True)
        return lm

    def save_phase(self, phase: PhaseConfig, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Writes what a phase learned: a longer stack, or a checkpoint `model/` in the phase's directory.

        `weights` are the trained weights by their names in the model. They may be empty for a full-weight
        phase whose weights are not sharded.
        """
        if phase.lora_rank:
            old = _read(self.adapter, self.rank) if self.rank else {}
            stack = _append(old, weights, phase.lora_alpha / phase.lora_rank)
            self._write_stack(stack, self.rank + phase.lora_rank)
            return
        lm = self.merged() if shards_weights() else self.lm
        unknown = lm.model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, f"the full model has no {unknown[:3]}"
        save_checkpoint(VideoLM(lm.model.to(self.dtype), lm.processor), directory / "model")

    def finish_phase(self, phase: PhaseConfig, directory: Path) -> None:
        """Continues with the model after a phase that has been saved."""
        if phase.lora_rank:
            self.rank += phase.lora_rank
        else:
            self.base, self.rank = directory / "model", 0
        if phase.lora_rank and self._loaded and not shards_weights():
            remove_adapters(self._loaded.model, merge=False)
            # Read from the file, so that a resumed run has the same numbers.
            _inject(self._loaded.model, _read(self.adapter, self.rank))
        else:
            self._loaded = None

    def _write_stack(self, stack: Adapter, rank: int) -> None:
        from peft import LoraConfig

        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=sorted(stack),
            base_model_name_or_path=resolve_model_path(self.base),
            revision=getattr(self.lm.model.config, "_commit_hash", None),
            inference_mode=True,
        )
        tensors = {
            _FILE_NAME.format(name, letter): tensor.to(self.dtype).contiguous()
            for name, pair in stack.items()
            for letter, tensor in zip("AB", pair, strict=True)
        }
        with replace_directory(self.adapter) as directory:
            config.save_pretrained(directory)
            # PEFT writes a set, whose order differs from process to process.
            file = directory / "adapter_config.json"
            write_json(file, json.loads(file.read_text()) | {"target_modules": sorted(stack)})
            save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def _read(directory: Path, rank: int) -> Adapter:
    """The first `rank` ranks of an adapter. An interrupted phase may have appended more."""
    tensors = load_file(directory / "adapter_model.safetensors")
    before, _, after = _FILE_NAME.format("|", "A").partition("|")
    modules = [name[len(before) : -len(after)] for name in tensors if name.endswith(after)]
    weights = {name: [tensors[_FILE_NAME.format(name, letter)] for letter in "AB"] for name in modules}
    return {name: (a[:rank], b[:, :rank]) for name, (a, b) in weights.items()}


def _append(old: Adapter, weights: Mapping[str, Tensor], scaling: float) -> Adapter:
    """The stack `old` with the ranks of NEWEST appended; zeros if a module is in only one of them."""
    end = f".lora_A.{NEWEST}.weight"
    names = [name.removesuffix(end) for name in weights if name.endswith(end)]
    new = {name: (weights[name + end], weights[name + end.replace("_A", "_B")]) for name in names}
    num_old, num_new = (next((len(a) for a, _ in x.values()), 0) for x in (old, new))
    stack = {}
    for name in sorted({*old, *new}):
        shapes = [tensor.shape for tensor in (old.get(name) or new[name])]
        a, b = old.get(name) or (torch.zeros(num_old, shapes[0][1]), torch.zeros(shapes[1][0], num_old))
        c, d = new.get(name) or (torch.zeros(num_new, shapes[0][1]), torch.zeros(shapes[1][0], num_new))
        stack[name] = (torch.cat([a.float(), c.float() * scaling]), torch.cat([b.float(), d.float()], dim=1))
    return stack


def _inject(model: Any, stack: Adapter) -> None:
    """Adds a stack to a model, frozen and active."""
    rank = len(next(iter(stack.values()))[0])
    add_adapter(model, STACK, r=rank, lora_alpha=rank, target_modules=sorted(stack))
    for name, pair in stack.items():
        layer = model.get_submodule(name)
        for part, tensor in zip((layer.lora_A, layer.lora_B), pair, strict=True):
            part[STACK].weight.data.copy_(tensor)
    model.requires_grad_(False)


def add_adapter(model: Any, name: str, **options: Any) -> None:
    """Adds a trainable adapter in float32 to the frozen ones of a model; all are active.

    `options` are those of PEFT's LoraConfig.
    """
    from peft import LoraConfig
    from peft.functional import cast_adapter_dtype, inject_adapter_in_model

    model.__dict__.pop("peft_config", None)
    with warnings.catch_warnings():
        # PEFT warns about a second adapter, which is intended here.
        warnings.simplefilter("ignore")
        inject_adapter_in_model(LoraConfig(**options), model, name)
    cast_adapter_dtype(model, name)
    for layer in _layers(model).values():
        layer._active_adapter = [STACK, NEWEST]


@contextlib.contextmanager
def only(model: Any, names: Sequence[str]) -> Iterator[Any]:
    """The model with only these adapters active; DDP and FSDP2 require that trained weights do not change."""
    layers = list(_layers(model).values())
    before = [layer._active_adapter for layer in layers]
    try:
        for layer in layers:
            layer._active_adapter = list(names)
        yield model
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def remove_adapters(model: Any, *, merge: bool) -> None:
    """Makes a model plain again; `merge` adds the stack to its weights, in float32."""
    for name, layer in _layers(model).items():
        base = layer.get_base_layer()
        if merge:
            weight = base.weight.data
            base.weight.data = (weight.float() + layer.get_delta_weight(STACK).float()).to(weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, base)
    model.__dict__.pop("peft_config", None)


def _layers(model: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def save_checkpoint(lm: VideoLM, path: Path) -> None:
    """Writes a plain Hugging Face checkpoint with its processor; the directory appears atomically."""
    with replace_directory(path) as directory:
        lm.model.save_pretrained(directory)
        lm.processor.save_pretrained(directory)
