"""The policy that a phase trains (LoRA or full weights), its reference, and a forward pass of both."""

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tempo.config import DpoPhase, PhaseConfig
from tempo.config.running import Part
from tempo.model.prefix import Group, encode_videos, language_model, packed_log_probs
from tempo.training.adapters import NEWEST, STACK, add_adapter, only, remove_adapters

#: Per group and continuation, token log-probabilities [num_scored].
LogProbs = list[list[Tensor]]

#: Names, in all families, of the modules between vision tower and language model.
_MERGER = re.compile(r"merger|projector|connector|resampler|aligner")


class Policy(nn.Module):
    """A model in training and its reference, in one module: DDP and FSDP2 see one call per packed row.

    The reference is the model at the start of the phase, or without adapters if `phase.reference` is "fixed",
    or the other model `first`.
    """

    def __init__(self, model: Any, phase: PhaseConfig, *, dtype: torch.dtype, first: Any = None) -> None:
        super().__init__()
        self._phase = phase
        #: The dtype of matrix products.
        self.dtype = dtype
        #: The reference, unless it is the model with some of its adapters, or not needed.
        self.frozen: Any = first
        self._reference_adapters = [STACK]
        if isinstance(phase, DpoPhase) and phase.reference == "fixed":
            self._reference_adapters = []
        self.model = model
        if phase.lora_rank:
            _add_lora(model, phase)
        else:
            unfreeze(model, phase)
            if isinstance(phase, DpoPhase) and first is None:
                # With the same dtypes as the policy, so that both round in the same way.
                self.frozen = copy.deepcopy(model).requires_grad_(False)
        if phase.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        # Dropout is off, because policy and reference would draw different masks. The dropout of LoRA
        # does not affect the reference. Gradient checkpointing needs its modules in training mode.
        self.model.eval()
        for name, module in self.model.named_modules():
            if getattr(module, "gradient_checkpointing", False) or ".lora_dropout." in name:
                module.training = True
        # The layers that FSDP2 gathers one by one. Not those of the vision tower, which runs once per row for
        # some rows and once per video for others: processes would deadlock while gathering.
        self._no_split_modules = sorted({type(layer).__name__ for layer in language_model(self.model).layers})

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Maps names, as in `model`, to all trained weights."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def describe_trained(self) -> str:
        """The number of trained parameters of each part, and whether no routed expert is among them."""
        counts, trained, of_experts = dict.fromkeys(get_args(Part), 0), self.trained, set[bool]()
        for name, part in parts(self.model).items():
            counts[part] += trained[name].numel() if name in trained else 0
            of_experts |= {name in trained} if ".experts." in name else set()
        text = ", ".join(f"{part.replace('_', ' ')} {count:,}" for part, count in counts.items())
        text += " LoRA parameters" if self._phase.lora_rank else " parameters"
        return text + ("; the routed experts are not trained" if of_experts == {False} else "")

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The reference model, without gradients."""
        model = self.model if self.frozen is None else self.frozen
        with torch.no_grad(), only(model, self._reference_adapters):
            yield model

    @contextlib.contextmanager
    def in_evaluation(self) -> Iterator[None]:
        """Without dropout and gradient checkpointing, which generation cannot use."""
        modules = [module for module in self.model.modules() if module.training]
        self.model.eval()
        yield
        for module in modules:
            module.training = True

    def forward(self, row: Sequence[Group]) -> tuple[LogProbs, LogProbs]:
        """Log-probabilities of a row under policy and reference; those of the reference only for DPO.

        A frozen vision tower runs once for both.
        """
        trains_vision = self._phase.trains_vision
        reference: LogProbs = []
        with autocast(next(self.model.parameters()).device, self.dtype):
            with torch.set_grad_enabled(trains_vision and torch.is_grad_enabled()):
                features = encode_videos(self.model, row)
            if isinstance(self._phase, DpoPhase):
                # If the tower is trained, the reference has different features.
                shared = None if trains_vision else features
                with self.reference() as model:
                    reference = packed_log_probs(model, row, video_features=shared)
            return packed_log_probs(self.model, row, video_features=features), reference


def parts(model: Any) -> dict[str, str]:
    """Maps the name of each parameter to the part of the model that it belongs to (`Part`)."""
    modules = (language_model(model), model.get_output_embeddings())
    language = {id(parameter) for module in modules for parameter in module.parameters()}
    return {
        name: "language_model" if id(p) in language else "merger" if _MERGER.search(name) else "vision_tower"
        for name, p in model.named_parameters()
    }


def _chosen(model: Any, phase: PhaseConfig) -> set[str]:
    """Names of the parameters of the parts that a phase trains; raises ValueError for a part without any."""
    found = parts(model)
    if missing := {*phase.train} - {*found.values()}:
        raise ValueError(
            f"phase {phase.name!r}: {type(model).__name__} has no {min(missing)}. Remove it from `train`"
        )
    return {name for name, part in found.items() if part in phase.train}


def unfreeze(model: Any, phase: PhaseConfig) -> None:
    """Merges the stack, makes the parts of a full-weight phase trainable in float32, and freezes the rest."""
    chosen = _chosen(model, phase)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        if name in chosen:
            # A half-precision weight cannot represent the step of a small learning rate.
            parameter.data = parameter.data.float()
    remove_adapters(model, merge=True)


def _add_lora(model: Any, phase: PhaseConfig) -> None:
    """LoRA on the linear layers of the parts that a phase trains, but not on the head."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    chosen, head = _chosen(model, phase), model.get_output_embeddings()
    names = [
        name.removesuffix(".base_layer")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name and module is not head
        if f"{name}.weight" in chosen
    ]
    # PEFT removes layers whose names it takes for parts of experts, such as `gate_proj` in GLM-4.5V.
    config = LoraConfig(target_modules=names)
    convert_peft_config_for_transformers(config, model, None)
    kept = sorted({*names} & {*(config.target_modules or ())})
    options = {"r": phase.lora_rank, "lora_alpha": phase.lora_alpha, "lora_dropout": phase.lora_dropout}
    add_adapter(model, NEWEST, **options, target_modules=kept)


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Computes products in `dtype`, even if trained weights are kept in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
