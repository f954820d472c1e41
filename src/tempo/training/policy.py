"""What a phase trains (LoRA or the weights themselves), its reference, and one forward pass of both."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
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


class Policy(nn.Module):
    """A model in training and its reference, which has the weights that the model starts the phase with.

    One module, whose forward pass is all that a training step computes: DDP and FSDP2 wrap it, and see one
    call per packed row. The reference comes from `store` if there is one, features of the frozen vision tower
    from `features`.
    """

    def __init__(
        self,
        model: Any,
        phase: PhaseConfig,
        *,
        store: ReferenceStore | None = None,
        features: FeatureStore | None = None,
    ) -> None:
        super().__init__()
        self._phase = phase
        self._store = store
        self._features = features
        #: The dtype of matrix products.
        self.dtype = model.dtype
        #: The reference, unless it is the model without its adapter, stored, or not needed.
        self.frozen_copy: Any = None
        if phase.lora_rank:
            self.model = _add_lora(model, phase)
        else:
            if isinstance(phase, DpoPhase) and store is None:
                self.frozen_copy = copy.deepcopy(model).requires_grad_(False).eval()
            self.model = model.requires_grad_(phase.train_vision)
            language_model(model).requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)
            # A half-precision weight cannot represent the step of a small learning rate.
            for parameter in self.trained.values():
                parameter.data = parameter.data.float()
        if phase.gradient_checkpointing:
            inner = self.model.get_base_model() if phase.lora_rank else self.model
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()
        # The layers that FSDP2 gathers one by one. Not those of the vision tower, which runs once per row for
        # some rows and once per video for others: processes that gather would wait for each other forever.
        self._no_split_modules = sorted({type(layer).__name__ for layer in language_model(self.model).layers})

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Name, as in `model`, to weight of everything that is trained."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The reference model, without gradients."""
        with torch.no_grad():
            if self.frozen_copy is not None:
                yield self.frozen_copy
            else:
                with self.model.disable_adapter():
                    yield self.model

    def forward(self, row: Sequence[Group]) -> tuple[LogProbs, LogProbs]:
        """Log-probabilities of a row under policy and reference, those of the reference empty for SFT.

        A frozen vision tower runs once for both.
        """
        trains_vision = self._phase.train_vision
        reference: LogProbs = []
        with autocast(next(self.model.parameters()).device, self.dtype):
            if self._features is not None:
                features = self._features.encode(self.model, row)
            else:
                with torch.set_grad_enabled(trains_vision and torch.is_grad_enabled()):
                    features = encode_videos(self.model, row)
            if self._store is not None:
                reference = [self._store.get(group) or [] for group in row]
            elif isinstance(self._phase, DpoPhase):
                # A trained tower gives the reference other features.
                shared = None if trains_vision else features
                with self.reference() as model:
                    reference = packed_log_probs(model, row, video_features=shared)
            return packed_log_probs(self.model, row, video_features=features), reference

    def merged(self, full_model: Any = None, trained: Mapping[str, Tensor] | None = None) -> Any:
        """The plain model with the trained weights, adapters merged.

        For weights that are quantized or sharded, `full_model` is the plain model that they were made from,
        and `trained` holds the full trained weights, named as in this model.
        """
        has_lora, model = bool(self._phase.lora_rank), self.model
        if full_model is not None:
            model = _add_lora(full_model, self._phase) if has_lora else full_model
            unknown = model.load_state_dict(trained, strict=False).unexpected_keys
            assert not unknown, f"the full model has no {unknown[:3]}"
        model = model.merge_and_unload() if has_lora else model
        if self._phase.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        return model.to(self.dtype).requires_grad_(True).eval()


def _add_lora(model: Any, phase: PhaseConfig) -> Any:
    """LoRA on the linear layers of the language model, with `train_vision` on all but the head."""
    from peft import LoraConfig, get_peft_model

    part = model if phase.train_vision else language_model(model)
    chosen = {id(m) for m in part.modules() if isinstance(m, nn.Linear)} - {id(model.get_output_embeddings())}
    names = [name for name, module in model.named_modules() if id(module) in chosen]
    config = LoraConfig(r=phase.lora_rank, lora_alpha=phase.lora_alpha, target_modules=names)
    return get_peft_model(model, config)


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Computes products in `dtype`, also where trained weights are kept in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class ReferenceStore:
    """The reference's token log-probabilities of whole groups on disk, computed once for epochs and phases.

    One JSON line per group, in a file per model (`model_key`) and process.
    """

    def __init__(self, directory: Path, *, key: str, rank: int = 0) -> None:
        self._path = directory / f"{key}-{rank}.jsonl"
        self._known: dict[str, list[list[float]]] = {
            name: rows for path in sorted(directory.glob(f"{key}-*.jsonl")) for name, rows in read_jsonl(path)
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
        device = lm.model.get_input_embeddings().weight.device
        for group in groups:
            if self.get(group) is None:
                with torch.no_grad(), autocast(device, lm.model.dtype):
                    self.add(group, packed_log_probs(lm.model, [group])[0])


def group_key(group: Group) -> str:
    """A hash of everything but the model that the log-probabilities depend on: pixels, prompt and answers."""
    digest = hash_tensors(sorted(group.inputs.items()))
    digest.update(json.dumps([[c.token_ids, c.num_context] for c in group.continuations]).encode())
    return str(digest.hexdigest()[:32])


def model_key(lm: VideoLM, path: str | Path) -> str:
    """A hash of a checkpoint as it was loaded: of its files in a directory, of name and commit on a hub."""
    directory, model = Path(resolve_model_path(str(path))), lm.model
    source = hash_checkpoint(directory) if directory.is_dir() else [str(path), model.config._commit_hash]
    is_quantized = bool(getattr(model, "is_quantized", False))
    return hash_text(json.dumps([transformers.__version__, source, str(model.dtype), is_quantized]))
