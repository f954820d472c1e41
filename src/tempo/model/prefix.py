"""Log-probabilities of several continuations that share one prefix of video and prompt.

They take one vision pass and one pass over the prefix, and the head runs on the answer tokens only. The
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
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tempo.model.attention import make_layout

#: Number of scored tokens whose logits are in memory at a time, in the forward and the backward pass. With a
#: vocabulary of 152k in bfloat16 they take about 0.16 GB, and each of the two float32 copies twice that.
HEAD_CHUNK = 512


@dataclass(frozen=True)
class ContinuationTokens:
    """Tokens after a prefix. The first `num_context` of them (a question) are read but not scored."""

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


def inner_model(model: Any) -> Any:
    """The model without its head and without a PEFT wrapper (its adapters stay in place)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model


def language_model(model: Any) -> Any:
    """The language model inside, whatever its family calls it (`language_model`, `text_model`)."""
    return inner_model(model).get_decoder()


#: The key under which a family's processor returns pixels, the modality, and the method that encodes them.
#: Families that treat a video as many images have only the second.
_VISION_INPUTS = (
    ("pixel_values_videos", "video", "get_video_features"),
    ("pixel_values", "image", "get_image_features"),
)

#: VideoLLaMA3's mask of the visual tokens to keep; it drops those that repeat the frame before.
_COMPRESSION = "video_compression_mask"


def encode_videos(model: Any, groups: Sequence[Group]) -> dict[str, Any] | None:
    """The vision tower's output for the videos of the groups, in order; None if no group has a video.

    Takes one pass for all groups if their pixels can be stacked, else one pass per group. Pass the result to
    `packed_log_probs`; if the tower is frozen, it serves policy and reference alike.
    """
    core = inner_model(model)
    device = core.get_input_embeddings().weight.device
    for pixels, modality, method in _VISION_INPUTS:
        calls = [group.inputs for group in groups if pixels in group.inputs]
        if calls:
            encode = getattr(core, method)
            names = [name for name in inspect.signature(encode).parameters if name in calls[0]]
            batches = [{name: call[name].to(device) for name in names} for call in calls]
            if len({batch[pixels].shape[1:] for batch in batches}) == 1:
                batches = [{name: torch.cat([batch[name] for batch in batches]) for name in names}]
            return {modality: merge_features([encode(**batch, return_dict=True) for batch in batches])}
    return None


def packed_log_probs(
    model: Any, groups: Sequence[Group], *, video_features: dict[str, Any] | None = None
) -> list[list[Tensor]]:
    """Log-probabilities of the scored tokens: per group and continuation a float32 tensor [num_scored].

    `video_features` is the result of `encode_videos` for the same groups; it is computed here if absent.
    """
    if video_features is None:
        video_features = encode_videos(model, groups)
    core = inner_model(model)
    device = core.get_input_embeddings().weight.device
    masks = [group.inputs[_COMPRESSION] for group in groups if _COMPRESSION in group.inputs]
    row_L, predict_S, target_S = (torch.tensor(values, device=device) for values in _pack_tokens(groups))
    hidden_LC = core(
        input_ids=row_L[None],
        attention_mask=make_layout([group.lengths for group in groups]),
        position_ids=torch.cat([_pack_positions(core, group) for group in groups], dim=-1).to(device),
        # A copy, because some families add to this dictionary.
        mm_encoder_outputs=dict(video_features) if video_features else None,
        **({_COMPRESSION: torch.cat(masks)} if masks else {}),
        use_cache=False,
    ).last_hidden_state[0]
    logp_S = _head_log_probs(model.get_output_embeddings(), hidden_LC[predict_S], target_S)
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


def _head_log_probs(head: nn.Module, hidden_SC: Tensor, target_S: Tensor) -> Tensor:
    """Log-probabilities [S] of the targets, in float32; no [S, V] tensor is built or kept."""

    def score(hidden: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(head(hidden).float(), target, reduction="none")

    # The backward computes the logits again: one more product with the head, a fraction of a layer.
    recompute = functools.partial(checkpoint, score, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([*map(recompute, hidden_SC.split(HEAD_CHUNK), target_S.split(HEAD_CHUNK))])


def _pack_positions(core: Any, group: Group) -> Tensor:
    """Positions of a group's tokens; each continuation has those it would have alone after the prefix.

    The family's own `get_rope_index` gives them, [3, 1, L] for M-RoPE, for the prefix followed by the longest
    continuation; a shorter continuation has the first of these. Families without it count from 0, [1, L].
    """
    prefix, *answers = group.lengths
    longest = max(answers, default=0)
    alone = torch.arange(prefix + longest)[None]
    if hasattr(core, "get_rope_index"):
        names = inspect.signature(core.get_rope_index).parameters
        given = {n: t for n, t in group.inputs.items() if n in names and n != "attention_mask"}
        # Positions depend only on the token types. Continuations are text, so any text token will do.
        text = torch.tensor(group.continuations[0].token_ids[:1])
        for name, filler in (("input_ids", text), ("mm_token_type_ids", torch.zeros(1))):
            given[name] = torch.cat([given[name], filler.expand(1, longest).to(given[name])], dim=1)
        alone = core.get_rope_index(**given)[0]
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
