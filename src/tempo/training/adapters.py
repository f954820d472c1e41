"""Which weights a phase trains: LoRA on linear layers or the weights themselves, and what plays reference."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tempo.config import PhaseConfig
from tempo.model.prefix import language_model


class Policy:
    """A model in training and its reference: the same weights as they were when the phase began."""

    def __init__(self, model: Any, phase: PhaseConfig) -> None:
        self.trains_vision = phase.train_vision
        self._phase = phase
        #: What products are computed in.
        self.dtype = model.dtype
        #: The reference where it is not this model without its adapter.
        self.frozen_copy: Any = None
        if phase.lora_rank:
            self.model = _add_lora(model, phase)
        else:
            if phase.objective == "dpo" and phase.reference == "reset" and not phase.cache_reference:
                self.frozen_copy = copy.deepcopy(model).requires_grad_(False).eval()
            self.model = model
            _freeze(model, train_vision=phase.train_vision)
            # In half precision a step of a small rate is smaller than what a weight can show.
            for parameter in self.parameters:
                parameter.data = parameter.data.float()
        self._checkpoints = phase.gradient_checkpointing
        if self._checkpoints:
            inner = self.model.get_base_model() if phase.lora_rank else self.model
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The reference model, without gradients."""
        with torch.no_grad():
            if self.frozen_copy is not None:
                yield self.frozen_copy
            else:
                with self.model.disable_adapter():
                    yield self.model

    def merged_into(self, whole: Any, learned: Mapping[str, Tensor]) -> Any:
        """The `whole` plain model with the `learned` weights in it, named as in this one.

        Where this one's own weights are quantized, or in parts in several processes.
        """
        target = _add_lora(whole, self._phase) if self._phase.lora_rank else whole
        unknown = target.load_state_dict(learned, strict=False).unexpected_keys
        assert not unknown, f"the whole model has no {unknown[:3]}"
        return (target.merge_and_unload() if self._phase.lora_rank else target).requires_grad_(True).eval()

    def merged(self) -> Any:
        """The plain model with what was learned in its weights."""
        model = self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model
        if self._checkpoints:
            model.gradient_checkpointing_disable()
        return model.to(self.dtype).requires_grad_(True).eval()


def _add_lora(model: Any, phase: PhaseConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=phase.lora_rank,
        lora_alpha=phase.lora_alpha,
        target_modules=_linear_names(model, phase.train_vision),
    )
    return get_peft_model(model, config)


def _linear_names(model: Any, train_vision: bool) -> list[str]:
    """Full names of the linear layers of the language model, and of everything else but the head if asked."""
    language = {id(module) for module in language_model(model).modules()}
    head = id(model.get_output_embeddings())
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) != head and (train_vision or id(module) in language)
    ]


def _freeze(model: Any, *, train_vision: bool) -> None:
    """Leaves gradients to the language model and the head, and to the rest if asked."""
    model.requires_grad_(train_vision)
    language_model(model).requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)
