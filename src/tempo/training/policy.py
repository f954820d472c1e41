"""What a phase trains (LoRA or the weights themselves), its reference, and one forward pass of both."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempo.config import DpoPhase, PhaseConfig
from tempo.core.files import append_jsonl, read_jsonl
from tempo.core.hashing import hash_checkpoint, hash_text
from tempo.model.chat import VideoLM
from tempo.model.features import FeatureStore, hash_tensors
from tempo.model.loading import resolve_model_path
from tempo.model.prefix import Group, encode_videos, language_model, packed_log_probs

#: Per group and continuation, token log-probabilities [num_scored].
LogProbs = list[list[Tensor]]


class Policy:
    """A model in training and its reference, which has the weights that the model starts the phase with."""

    def __init__(self, model: Any, phase: PhaseConfig) -> None:
        self.trains_vision = phase.train_vision
        self._phase = phase
        #: The dtype of matrix products.
        self.dtype = model.dtype
        #: The reference, unless it is this model without its adapter, or not needed.
        self.frozen_copy: Any = None
        if phase.lora_rank:
            self.model = _add_lora(model, phase)
        else:
            if isinstance(phase, DpoPhase) and not caches_reference(phase):
                self.frozen_copy = copy.deepcopy(model).requires_grad_(False).eval()
            self.model = model
            _freeze(model, train_vision=phase.train_vision)
            # A half-precision weight cannot represent the step of a small learning rate.
            for parameter in self.parameters:
                parameter.data = parameter.data.float()
        if phase.gradient_checkpointing:
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

    def merged(self) -> Any:
        """The plain model with the trained weights, adapters merged."""
        model = self.model.merge_and_unload() if self._phase.lora_rank else self.model
        if self._phase.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        return model.to(self.dtype).requires_grad_(True).eval()

    def merged_into(self, full_model: Any, trained: Mapping[str, Tensor]) -> Any:
        """`full_model`, a plain model, with the `trained` weights, named as in this model.

        For a model whose own weights are quantized or sharded.
        """
        target = _add_lora(full_model, self._phase) if self._phase.lora_rank else full_model
        unknown = target.load_state_dict(trained, strict=False).unexpected_keys
        assert not unknown, f"the full model has no {unknown[:3]}"
        return (target.merge_and_unload() if self._phase.lora_rank else target).requires_grad_(True).eval()


def _add_lora(model: Any, phase: PhaseConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=phase.lora_rank,
        lora_alpha=phase.lora_alpha,
        target_modules=_linear_names(model, phase.train_vision),
    )
    return get_peft_model(model, config)


def _linear_names(model: Any, train_vision: bool) -> list[str]:
    """Full names of the linear layers of the language model, with `train_vision` of all but the head."""
    language = {id(module) for module in language_model(model).modules()}
    head = id(model.get_output_embeddings())
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) != head and (train_vision or id(module) in language)
    ]


def _freeze(model: Any, *, train_vision: bool) -> None:
    """Trains the language model and the head, with `train_vision` everything."""
    model.requires_grad_(train_vision)
    language_model(model).requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)


def caches_reference(phase: DpoPhase) -> bool:
    """Whether the reference's log-probabilities are computed before the phase (`ReferenceStore`)."""
    return phase.cache_reference or phase.reference == "fixed"


class PolicyAndReference(nn.Module):
    """Policy and reference as one module: its forward pass is all that a training step computes.

    DDP and FSDP2 wrap it, and see one call per packed row.
    """

    def __init__(self, policy: Policy, features: FeatureStore | None = None, *, uses_reference: bool) -> None:
        super().__init__()
        self.model = policy.model
        #: Part of this module, so that FSDP2 shards it too.
        self.frozen_copy = policy.frozen_copy
        self._policy = policy
        self._features = features
        self._uses_reference = uses_reference
        # The layers that FSDP2 gathers one by one. Not those of the vision tower, which runs once per row for
        # some rows and once per video for others: processes that gather would wait for each other forever.
        self._no_split_modules = sorted({type(layer).__name__ for layer in language_model(self.model).layers})

    def forward(self, row: Sequence[Group], cached: LogProbs | None = None) -> tuple[LogProbs, LogProbs]:
        """Log-probabilities of a row under policy and reference: one vision pass for both if it is frozen.

        Those of the reference are `cached`, or empty where none is used.
        """
        with autocast(self._policy.parameters[0].device, self._policy.dtype):
            features = self._encode(row)
            reference = cached or []
            if self._uses_reference and cached is None:
                # A trained tower gives the reference other features.
                shared = None if self._policy.trains_vision else features
                with self._policy.reference() as model:
                    reference = packed_log_probs(model, row, video_features=shared)
            return packed_log_probs(self.model, row, video_features=features), reference

    def _encode(self, row: Sequence[Group]) -> dict[str, Any] | None:
        if self._features is not None:
            return self._features.encode(self.model, row)
        with torch.set_grad_enabled(self._policy.trains_vision and torch.is_grad_enabled()):
            return encode_videos(self.model, row)


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Computes products in `dtype`, also where trained weights are kept in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class ReferenceStore:
    """The reference's token log-probabilities of whole groups on disk, computed once for epochs and phases.

    Needed if the reference is not the policy without its adapter (`reference = "fixed"`). One JSON line per
    group, in a file per model (`model_key`) and process.
    """

    def __init__(self, directory: Path, *, key: str, rank: int = 0) -> None:
        self._path = directory / f"{key}-{rank}.jsonl"
        paths = sorted(directory.glob(f"{key}-*.jsonl"))
        self._known: dict[str, list[list[float]]] = {
            name: rows for p in paths for name, rows in read_jsonl(p)
        }

    def get(self, group: Group) -> list[Tensor] | None:
        """Per continuation the log-probabilities [num_scored] in float32; None for an unknown group."""
        found = self._known.get(group_key(group))
        return None if found is None else [torch.tensor(row) for row in found]

    def add(self, group: Group, logps: Sequence[Tensor]) -> None:
        """Stores the log-probabilities of a group. float32 values are restored exactly."""
        key, rows = group_key(group), [logp.tolist() for logp in logps]
        self._known[key] = rows
        append_jsonl(self._path, [json.dumps([key, rows])])

    def fill(self, lm: VideoLM, groups: Iterable[Group]) -> None:
        """Computes what is missing, with the reference model `lm`."""
        for group in groups:
            if self.get(group) is None:
                device = lm.model.get_input_embeddings().weight.device
                with torch.no_grad(), autocast(device, lm.model.dtype):
                    self.add(group, packed_log_probs(lm.model, [group])[0])


def group_key(group: Group) -> str:
    """A hash of what the log-probabilities depend on beside the model: pixels, prompt and answers."""
    digest = hash_tensors(sorted(group.inputs.items()))
    digest.update(json.dumps([[c.token_ids, c.num_context] for c in group.continuations]).encode())
    return str(digest.hexdigest()[:32])


def model_key(lm: VideoLM, path: str | Path) -> str:
    """A hash of a checkpoint as it was loaded: of its files in a directory, of name and commit on a hub."""
    import transformers

    directory = Path(resolve_model_path(str(path)))
    model = lm.model
    source = hash_checkpoint(directory) if directory.is_dir() else [str(path), model.config._commit_hash]
    is_quantized = bool(getattr(model, "is_quantized", False))
    return hash_text(json.dumps([transformers.__version__, source, str(model.dtype), is_quantized]))
