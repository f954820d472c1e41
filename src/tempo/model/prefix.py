"""Log-probabilities of several continuations that share one prefix of video and prompt.

They take one vision pass and one pass over the prefix, and the head runs only on the answer tokens. The
values equal those of one full sequence per continuation (`tempo.model.support.duplicated_log_probs`).

    L: tokens of the packed row   S: scored tokens   V: vocabulary   C: hidden size
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tempo.model.attention import make_layout, make_masks

#: Number of scored tokens whose logits are in memory at a time, in the forward and the backward pass. With a
#: vocabulary of 152k in bfloat16 they take about 0.16 GB, and each of the two float32 copies twice that.
HEAD_CHUNK = 512

#: Default maximum number of tokens of a packed row.
MAX_TOKENS = 16384


@dataclass(frozen=True)
class ContinuationTokens:
    """Tokens after a prefix. The first `num_context` of them (a question) are context and not scored."""

    token_ids: tuple[int, ...]
    num_context: int = 0

    @property
    def num_scored(self) -> int:
        """Number of tokens that get a log-probability."""
        return len(self.token_ids) - self.num_context


@dataclass(frozen=True)
class Group:
    """The inputs of a prefix, as the processor returns them for a batch of one, and its continuations."""

    inputs: Mapping[str, Tensor]
    continuations: tuple[ContinuationTokens, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of the prefix and of each continuation."""
        return (self.inputs["input_ids"].shape[1], *(len(c.token_ids) for c in self.continuations))


def split_group(group: Group, *, max_tokens: int) -> list[Group]:
    """Groups with the same prefix, in order, each with at most `max_tokens` tokens or one continuation."""
    prefix, *sizes = group.lengths
    parts: list[list[ContinuationTokens]] = []
    free = 0
    for continuation, size in zip(group.continuations, sizes, strict=True):
        if not parts or size > free:
            parts.append([])
            free = max_tokens - prefix
        parts[-1].append(continuation)
        free -= size
    return [Group(group.inputs, tuple(part)) for part in parts]


def unwrapped(model: Any) -> Any:
    """The model without a PEFT wrapper; its adapters stay in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def inner_model(model: Any) -> Any:
    """The model without its head and without a PEFT wrapper."""
    return unwrapped(model).model


def language_model(model: Any) -> Any:
    """The inner language model, whose name depends on the family (`language_model`, `text_model`)."""
    return inner_model(model).get_decoder()


#: The key under which a family's processor returns pixels, the modality, and the method that encodes them.
#: Families that treat a video as many images have only the second entry.
_VISION_INPUTS = (
    ("pixel_values_videos", "video", "get_video_features"),
    ("pixel_values", "image", "get_image_features"),
)

#: Inputs of videos that can be concatenated. Others refer to each other by index (Molmo2), or hold all frames
#: of a video in one row (MiniCPM-V).
_STACKABLE = {
    "pixel_values_videos", "pixel_values", "pixel_attention_mask", "video_grid_thw", "video_merge_sizes",
    "video_position_ids", "num_frames_per_video",
}  # fmt: skip

#: VideoLLaMA3's mask of the visual tokens to keep; it drops tokens that repeat the previous frame.
_COMPRESSION = "video_compression_mask"


def encode_videos(model: Any, groups: Sequence[Group]) -> dict[str, Any] | None:
    """The vision tower's output for the videos of the groups, in order; None if no group has a video.

    Takes one pass for all groups if their pixels can be stacked, else one pass per group. Pass the result to
    `packed_log_probs`; if the tower is frozen, policy and reference can share it.
    """
    core = inner_model(model)
    device = core.get_input_embeddings().weight.device
    for pixels, modality, method in _VISION_INPUTS:
        calls = [group.inputs for group in groups if pixels in group.inputs]
        if calls:
            # Perception LM also encodes videos as images.
            encode = getattr(core, method, core.get_image_features)
            names = [pixels, *(name for name in inspect.signature(encode).parameters if name in calls[0])]
            batches = [{name: call[name].to(device) for name in names} for call in calls]
            if {*names} <= _STACKABLE and len({batch[pixels].shape[1:] for batch in batches}) == 1:
                batches = [{name: torch.cat([batch[name] for batch in batches]) for name in names}]
            outputs = [encode(batch.pop(pixels), **batch, return_dict=True) for batch in batches]
            return {modality: merge_features(outputs)}
    return None


def packed_log_probs(
    model: Any, groups: Sequence[Group], *, video_features: dict[str, Any] | None = None
) -> list[list[Tensor]]:
    """Log-probabilities of the scored tokens: per group and continuation a float32 tensor [num_scored].

    `video_features` is the result of `encode_videos` for the same groups; it is computed here if None.
    """
    if video_features is None:
        video_features = encode_videos(model, groups)
    core = inner_model(model)
    device = core.get_input_embeddings().weight.device
    masks = [group.inputs[_COMPRESSION] for group in groups if _COMPRESSION in group.inputs]
    layout = make_layout([group.lengths for group in groups])
    types = {name: tensor.to(device) for name, tensor in _pack_types(groups).items()}
    known = inspect.signature(core.forward).parameters
    row_L, predict_S, target_S = (torch.tensor(values, device=device) for values in _pack_tokens(groups))
    hidden_LC = core(
        input_ids=row_L[None],
        attention_mask=make_masks(unwrapped(model), layout, device=device, token_types=types),
        position_ids=torch.cat([_pack_positions(core, group) for group in groups], dim=-1).to(device),
        # A copy, because some families add to this dictionary.
        mm_encoder_outputs=dict(video_features) if video_features else None,
        **{name: tensor for name, tensor in types.items() if name in known},
        **({_COMPRESSION: torch.cat(masks)} if masks else {}),
        use_cache=False,
    ).last_hidden_state[0]
    # The gradient of `hidden_LC[predict_S]` adds up equal positions in several threads, in any order.
    hidden_SC = hidden_LC.index_select(0, predict_S)
    logp_S = _head_log_probs(unwrapped(model), hidden_SC, target_S)
    parts = iter(logp_S.split([c.num_scored for group in groups for c in group.continuations]))
    return [[next(parts) for _ in group.continuations] for group in groups]


def _pack_tokens(groups: Sequence[Group]) -> tuple[list[int], list[int], list[int]]:
    """The tokens of the row, the positions in it that predict a scored token, and the scored tokens."""
    row: list[int] = []
    predict: list[int] = []
    target: list[int] = []
    for group in groups:
        row += group.inputs["input_ids"][0].tolist()
        last_of_prefix = len(row) - 1
        for continuation in group.continuations:
            before = [last_of_prefix, *range(len(row), len(row) + len(continuation.token_ids) - 1)]
            predict += before[continuation.num_context :]
            target += continuation.token_ids[continuation.num_context :]
            row += continuation.token_ids
    return row, predict, target


def _head_log_probs(model: Any, hidden_SC: Tensor, target_S: Tensor) -> Tensor:
    """Log-probabilities [S] of the targets, in float32; no [S, V] tensor is built or kept."""

    def score(hidden: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(_logits(model, hidden).float(), target, reduction="none")

    # The backward computes the logits again: one more product with the head, a fraction of a layer.
    recompute = functools.partial(checkpoint, score, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([*map(recompute, hidden_SC.split(HEAD_CHUNK), target_S.split(HEAD_CHUNK))])


class _Hidden:
    """Replaces the output of a model's body: hidden states [1, S, C], and None for everything else."""

    def __init__(self, hidden_SC: Tensor) -> None:
        self.last_hidden_state = hidden_SC[None]

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


def _logits(model: Any, hidden_SC: Tensor) -> Tensor:
    """Logits [S, V] of hidden states, from the family's own forward pass with its body replaced.

    So everything that a family applies after its head (caps, scales, multipliers) is applied here too.
    """
    body = model.model
    replaced = body.__dict__.get("forward")
    body.forward = lambda *_, **__: _Hidden(hidden_SC)
    try:
        return model(inputs_embeds=hidden_SC[None], use_cache=False).logits[0]  # type: ignore[no-any-return]
    finally:
        del body.forward
        if replaced is not None:
            body.forward = replaced


def token_types(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs [1, P] with one entry per token, except ids and mask: token types, 0 for text."""
    shape = inputs["input_ids"].shape
    others = ("input_ids", "attention_mask")
    return {name: value for name, value in inputs.items() if value.shape == shape and name not in others}


def _pack_types(groups: Sequence[Group]) -> dict[str, Tensor]:
    """The types [1, L] of the row's tokens by name."""
    names = dict.fromkeys(name for group in groups for name in token_types(group.inputs))

    def pad(group: Group, name: str) -> Tensor:
        own = group.inputs.get(name, torch.zeros_like(group.inputs["input_ids"]))
        return F.pad(own, (0, sum(group.lengths[1:])))

    return {name: torch.cat([pad(group, name) for group in groups], dim=1) for name in names}


def _pack_positions(core: Any, group: Group) -> Tensor:
    """Positions of a group's tokens; each continuation has those of a text directly after the prefix.

    The family's own `get_rope_index` computes them, [3, 1, L] for M-RoPE, for the prefix followed by the
    longest continuation; shorter ones have the first of these. Families without it count from 0, [1, L].
    """
    prefix, *answers = group.lengths
    longest = max(answers, default=0)
    alone = torch.arange(prefix + longest)[None]
    if hasattr(core, "get_rope_index"):
        names = inspect.signature(core.get_rope_index).parameters
        filler = torch.tensor([group.continuations[0].token_ids[:1]])
        inputs = dict(group.inputs)
        # Positions depend only on the token types. Continuations are text, so any text token works.
        inputs["input_ids"] = torch.cat([inputs["input_ids"], filler.expand(1, longest)], dim=1)
        inputs |= {name: F.pad(types, (0, longest)) for name, types in token_types(group.inputs).items()}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        # Qwen Omni's name for the input.
        if "video_second_per_grid" in inputs:
            inputs["second_per_grids"] = inputs["video_second_per_grid"]
        alone = core.get_rope_index(**{name: value for name, value in inputs.items() if name in names})[0]
    parts = [alone[..., :prefix], *(alone[..., prefix : prefix + n] for n in answers)]
    return torch.cat(parts, dim=-1)


def merge_features(outputs: Sequence[Any]) -> Any:
    """One vision output that holds all videos in order, in the form that the family uses."""
    first = outputs[0]
    if len(outputs) > 1:
        first.pooler_output = _join([output.pooler_output for output in outputs])
        if getattr(first, "deepstack_features", None) is not None:
            layers = zip(*(output.deepstack_features for output in outputs), strict=True)
            first.deepstack_features = [_join(layer) for layer in layers]
    return first


def _join(features: Sequence[Any]) -> Any:
    """Joins the features of several videos: tuples of [tokens, C], or tensors [videos, tokens, C]."""
    if isinstance(features[0], (tuple, list)):
        return tuple(tokens for videos in features for tokens in videos)
    if len({videos.shape[1:] for videos in features}) == 1:
        return torch.cat(list(features))
    # Videos of different lengths become one long video: the packed row is one sequence anyway.
    return torch.cat([videos.flatten(0, 1) for videos in features])[None]
