"""Recurrent token mixers over packed rows: gated delta nets, Mamba-2, short convolutions.

A recurrent mixer reads tokens in order and keeps a state, so in a packed row the second continuation would
continue the first. `branch_mixers` makes each mixer process a row with a layout (`tempo.model.attention`) in
two passes: the prefix, then all its continuations as one batch that starts from the prefix's state. This
happens inside the mixer's own forward pass, so that gradient checkpointing and adapters still work.
"""

import inspect
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempo.model.attention import is_layout, segments_of

#: The types of layers that have a recurrent mixer, as in a configuration's `layer_types`.
KINDS = {"linear_attention", "conv"}

#: The names of the parameter that takes a mixer's cache.
_CACHES = ("cache_params", "past_key_values")


class _State:
    """The part of transformers' Cache that one mixer uses. It is never written in place: gradients flow."""

    def __init__(self, conv: dict[int, Tensor], recurrent: dict[int, Tensor]) -> None:
        self.conv, self.recurrent = conv, recurrent

    def repeat(self, times: int) -> Self:
        """A state for a batch of `times` rows that all start from this state."""
        states = (self.conv, self.recurrent)
        return type(self)(*({i: s.expand(times, *s.shape[1:]) for i, s in state.items()} for state in states))

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.conv.get(state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self.recurrent.get(state_idx)

    def is_recording_past(self, layer_idx: int) -> bool:
        # Otherwise a single token takes a path that writes in place.
        return True

    def update_conv_state(
        self, new: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        size, old = conv_kernel_size or new.shape[-1], self.conv.get(state_idx)
        whole = (
            F.pad(new, (max(size - new.shape[-1], 0), 0)) if old is None else torch.cat([old, new], dim=-1)
        )
        self.conv[state_idx] = whole[..., -size:]
        return whole

    def update_recurrent_state(self, new: Tensor, layer_idx: int, state_idx: int = 0, **_: Any) -> Tensor:
        self.recurrent[state_idx] = new
        return new


class _Branched(nn.Module):
    """A mixin that is placed before a mixer's own class."""

    def forward(
        self, hidden_states: Tensor, *args: Any, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The mixer's output [1, L, C] for a row with a layout; any other input goes to the mixer itself."""
        read = super().forward
        if not is_layout(attention_mask):
            return read(hidden_states, *args, attention_mask=attention_mask, **kwargs)  # type: ignore[no-any-return]
        assert attention_mask is not None
        (cache,) = (name for name in inspect.signature(read).parameters if name in _CACHES)
        segments = segments_of(attention_mask)
        rows = iter(hidden_states.split([length for lengths in segments for length in lengths], dim=1))
        outputs = []
        for _, *answers in segments:
            state = _State({}, {})
            outputs.append(read(next(rows), **kwargs | {cache: state}))
            if answers:
                # At least two tokens, because mixers decode a single token with a different formula.
                longest = max(2, *answers)
                batch = torch.cat([F.pad(next(rows), (0, 0, 0, longest - n)) for n in answers])
                output = read(batch, **kwargs | {cache: state.repeat(len(answers))})
                outputs += [output[i : i + 1, :n] for i, n in enumerate(answers)]
        return torch.cat(outputs, dim=1)


def branch_mixers(text_model: Any) -> None:
    """Makes the recurrent mixers of a language model support rows with a layout; other layers do not change.

    Raises ValueError that names the type of a layer whose mixer is not found.
    """
    kinds = getattr(text_model.config, "layer_types", None) or []
    for layer, kind in zip(text_model.layers, kinds, strict=False):
        if kind in KINDS:
            mixers = [child for child in layer.children() if _is_mixer(child)]
            if len(mixers) != 1:
                raise ValueError(f"the recurrent part of its {kind} layers was not found")
            own = type(mixers[0])
            # The class is replaced, because a copy of the model would share the object's `forward`.
            mixers[0].__class__ = type(own.__name__, (_Branched, own), {})


def _is_mixer(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters
    return any(name in parameters for name in _CACHES) and "position_embeddings" not in parameters
