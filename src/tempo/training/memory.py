"""Peak memory and operations of a training step and of generation, counted without weights or a GPU.

The real code runs, with its packed row, gradient checkpointing and backward pass, but weights and pixels are
tensors that have a shape and no data (torch's FakeTensor). Tokens and positions are real. The bytes of every
storage are counted from its allocation until it is freed. The workspace of a kernel within one operation, and
memory that an allocator keeps in reserve, are not counted.
"""

import inspect
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tempo.config import PhaseConfig
from tempo.model.loading import build_model
from tempo.model.prefix import Group, packed_log_probs
from tempo.training.policy import Policy

#: Bytes for each answer and entry of the vocabulary when a token is sampled: scores and their softmax in
#: float32, its copy and cumulative sum in float64, and the result.
SAMPLING_BYTES = 28

#: bitsandbytes' NF4: half a byte per weight and a float32 scale for each 64 weights.
NF4_BYTES = 0.5 + 4 / 64


@dataclass(frozen=True)
class Cost:
    """The peak memory of a step by part, in bytes, and its floating-point operations.

    `activations_bytes` is the rest of the peak.
    """

    weights_bytes: int
    activations_bytes: int
    adapters_bytes: int = 0
    reference_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    cache_bytes: int = 0
    flops: int = 0

    @property
    def peak_bytes(self) -> int:
        static = self.weights_bytes + self.adapters_bytes + self.reference_bytes + self.cache_bytes
        return static + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


class _Counter(TorchDispatchMode):
    """Counts the bytes of allocated storages, initially those in `things`, and floating-point operations."""

    def __init__(self, *things: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = self.flops = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._add(things)

    def _add(self, things: Any) -> None:
        for tensor in tree_leaves(things):
            if not isinstance(tensor, Tensor) or id(storage := tensor.untyped_storage()) in self._known:
                continue
            self._known[id(storage)] = weakref.ref(
                storage, partial(self._free, id(storage), storage.nbytes())
            )
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _free(self, key: int, size: int, _: object) -> None:
        self.live_bytes -= size
        del self._known[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._add(result)
        name = str(func.overloadpacket)
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        elif "attention" in name:
            # Two products forward, five backward, and half of them if `is_causal`, the only flag.
            num_products, first = (5, 1) if "backward" in name else (2, 0)
            is_causal = any(argument is True for argument in (*args, *(kwargs or {}).values()))
            num_pairs = args[first].numel() * args[first + 1].shape[-2] // (2 if is_causal else 1)
            self.flops += 2 * num_products * num_pairs
        return result


class Simulator:
    """A model without weights, for steps in `dtype` on one device; `four_bit` quantizes its linear layers."""

    def __init__(
        self, config: Any, *, dtype: torch.dtype, on_gpu: bool = False, four_bit: bool = False
    ) -> None:
        self._config, self._dtype, self._on_gpu, self._four_bit = config, dtype, on_gpu, four_bit
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._model = self._without_data(build_model(config, dtype=dtype))

    def train(self, row: Sequence[Group], phase: PhaseConfig, *, num_rows: int = 1) -> Cost:
        """The cost of an optimizer step on `num_rows` packed rows like this one."""
        model = build_model(self._config, dtype=self._dtype)
        policy = self._without_data(Policy(model, phase, dtype=self._dtype))
        trained = list(policy.trained.values())
        # Gradients of further rows are added to those of the first one.
        for parameter in trained if num_rows > 1 else ():
            parameter.grad = torch.empty_like(parameter)
        counter = _Counter(_tensors(policy), [parameter.grad for parameter in trained])
        with counter:
            answers, _ = policy(row)
            torch.stack([logp.sum() for group in answers for logp in group]).sum().backward()
        size = sum(parameter.nbytes for parameter in trained)
        weights = _Counter(_tensors(policy.model)).live_bytes
        reference = _Counter(_tensors(policy.frozen)).live_bytes if policy.frozen else 0
        # AdamW updates all weights at once on a GPU, and one after the other on a CPU.
        update = size if self._on_gpu else 2 * max(parameter.nbytes for parameter in trained)
        adapters = size if phase.lora_rank else 0
        peak = max(counter.peak_bytes, weights + reference + size + update)
        return self._quantized(
            Cost(
                weights_bytes=weights - adapters,
                adapters_bytes=adapters,
                reference_bytes=reference,
                gradients_bytes=size,
                optimizer_bytes=2 * size,
                activations_bytes=peak - weights - reference - size,
                flops=num_rows * counter.flops,
            )
        )

    def generate(self, inputs: Mapping[str, Tensor], *, batch_size: int, max_new_tokens: int) -> Cost:
        """The cost of answering a batch of prompts like this one; `flops` are those of the prompts alone."""
        counter = _Counter(_tensors(self._model))
        weights, num_prompt = counter.live_bytes, inputs["input_ids"].shape[1]
        names = {"logits_to_keep"} & inspect.signature(self._model.forward).parameters.keys()
        with counter, torch.no_grad():
            cache = self._model(**inputs, use_cache=True, **dict.fromkeys(names, 1)).past_key_values
        one = _Counter([vars(layer) for layer in cache.layers]).live_bytes
        size = batch_size * one * (num_prompt + max_new_tokens) // num_prompt
        config = self._config.get_text_config()
        logits = batch_size * config.vocab_size * SAMPLING_BYTES
        # A new token copies the keys and values of one layer at a time.
        peak = max(
            batch_size * (counter.peak_bytes - weights), size + size // config.num_hidden_layers + logits
        )
        flops = batch_size * counter.flops
        return self._quantized(Cost(weights, peak - size, cache_bytes=size, flops=flops))

    def score(self, group: Group) -> Cost:
        """The cost of the log-probabilities of a group's continuations, without gradients."""
        counter = _Counter(_tensors(self._model))
        weights = counter.live_bytes
        with counter, torch.no_grad():
            packed_log_probs(self._model, [group])
        return self._quantized(Cost(weights, counter.peak_bytes - weights, flops=counter.flops))

    def _without_data(self, module: nn.Module) -> Any:
        with self._fake:
            module.to_empty(device="cpu")
        # Tied weights are separate now.
        for part in module.modules():
            getattr(part, "tie_weights", lambda: None)()
        return module

    def _quantized(self, cost: Cost) -> Cost:
        """The cost with all linear layers except the head in NF4; one layer at a time is dequantized."""
        if not self._four_bit:
            return cost
        head = self._model.get_output_embeddings()
        layers = [m.weight for m in self._model.modules() if isinstance(m, nn.Linear) and m is not head]
        saved = sum(weight.nbytes - weight.numel() * NF4_BYTES for weight in layers)
        more = cost.activations_bytes + max(weight.nbytes for weight in layers)
        return replace(cost, weights_bytes=cost.weights_bytes - int(saved), activations_bytes=more)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
