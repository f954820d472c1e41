"""The loop that samples the tokens of a batch of answers, if possible several of an answer in one step.

B: rows   P: tokens of the prompt   N: most new tokens   L: P + N and room for drafts   V: vocabulary
D: drafts   T: tokens of a step (the last one sampled, and the drafts)
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    StopStringCriteria,
    SuppressTokensLogitsProcessor,
)
from transformers.cache_utils import DynamicLayer

from tempo.config import SamplingConfig

#: Number of drafts, and the smallest share of right first drafts with which they save time.
_DRAFTS, _MIN_RIGHT = 3, 0.25

#: Number of tokens for which a full cache allocates memory at a time.
_BLOCK_TOKENS = 64

#: After every _CHECK_STEPS steps, finished answers leave the batch if their share is at least _MIN_FINISHED.
#: The check makes the CPU wait for the GPU, and removing answers copies the cache of the others.
_CHECK_STEPS, _MIN_FINISHED = 4, 0.25


def decode(
    model: Any,
    ids_BP: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: Any,
    generation_config: Any,
    sampling: SamplingConfig,
    sources_B: Tensor,
    draws_BN: Tensor,
    ends: Tensor,
    stop_rule: StopStringCriteria | None,
    **inputs: Any,
) -> list[list[int]]:
    """A custom loop of transformers' `generate`: the new tokens of each row, up to its end.

    `sources_B` is the index of the prompt of each row, and `draws_BN` has a random number per token.
    Finished rows leave the batch.

    Descriptions repeat parts of their prompt. So a step also processes drafts: the tokens that followed when
    the last ones occurred before. Those that equal the sampled tokens are right and spare a step each; the
    others are removed again. The answers are the same as without drafts, within rounding.
    """
    answers, num_prompt = dict[int, list[int]](), ids_BP.shape[1]
    model_inputs = model.prepare_inputs_for_generation(ids_BP, is_first_iteration=True, **inputs)
    can_draft, share_right = stop_rule is None and _can_draft(logits_processor, model_inputs), 0.0
    drafts_BD = guesses_BD = ids_BP[sources_B, :0]
    num_cached = num_prompt
    for step in itertools.count():
        width = 1 + drafts_BD.shape[1]
        outputs = model(**model_inputs, return_dict=True)
        logits_BTV = outputs.logits[:, -width:]
        if step == 0:
            if len(ids_BP) < len(sources_B):
                # The prompts have been processed; now each answer gets a row.
                inputs = _select_rows(inputs, sources_B, ids_BP.shape)
                ids_BP, logits_BTV = ids_BP[sources_B], logits_BTV[sources_B]
            rows = _Rows.start(ids_BP, draws_BN)
            if can_draft and inputs.get("attention_mask") is None:
                inputs["attention_mask"] = torch.ones_like(ids_BP)
        scores_BTV = _penalized(logits_BTV.float(), rows.ids_BL, drafts_BD, sampling.repetition_penalty)
        processed = logits_processor(rows.ids_BL[:, : num_prompt + step], scores_BTV.flatten(0, 1))
        new_BT = _choose(processed.view_as(scores_BTV), rows.draws(width), sampling.temperature)
        was_finished_B = rows.is_finished_B
        rows.add(new_BT, drafts_BD, ends)
        if stop_rule:
            rows.is_finished_B |= stop_rule(rows.ids_BL[:, : num_prompt + step + 1], None)
        if can_draft:
            if step > 0:
                num_cached = _remove_wrong(inputs, rows, width, num_cached)
                is_right_B = (new_BT[:, 0] == guesses_BD[:, 0])[~was_finished_B]
                share_right = 0.75 * share_right + 0.25 * float(is_right_B.float().mean())
            guesses_BD = rows.drafts()
            drafts_BD = guesses_BD[:, : _DRAFTS if share_right >= _MIN_RIGHT else 0]
        is_due = (draws_BN.shape[1] - step - 1) % _CHECK_STEPS == 0
        if is_due and rows.is_finished_B.float().mean() >= _MIN_FINISHED:
            answers |= rows.finished()
            if rows.is_finished_B.all():
                return [answers[row] for row in range(len(answers))]
            kept = (~rows.is_finished_B).nonzero()[:, 0]
            inputs = _select_rows(inputs, kept, (len(rows.ids_BL), num_cached))
            rows.select(kept)
            drafts_BD, guesses_BD = drafts_BD[kept], guesses_BD[kept]
        next_BT = torch.cat([rows.last_tokens(1), drafts_BD], dim=1)
        width = next_BT.shape[1]
        inputs = model._update_model_kwargs_for_generation(outputs, inputs, num_new_tokens=width)
        if "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = width
        # Of the tokens before the next ones, models read only how many there are.
        ids_BL = torch.cat([rows.ids_BL[:, :num_cached], next_BT], dim=1)
        model_inputs = model.prepare_inputs_for_generation(ids_BL, next_sequence_length=width, **inputs)
        num_cached += width
    raise AssertionError("the loop returns")


@dataclass(eq=False)
class _Rows:
    """The answers of a batch that are not finished, or were not at the last check."""

    index_B: Tensor
    #: The tokens of the prompt and the answer, then its first token repeated, which changes no penalty.
    ids_BL: Tensor
    num_prompt: int
    draws_BN: Tensor
    num_new_B: Tensor
    is_finished_B: Tensor
    #: Number of tokens of the answer in the cache, and the place from which a draft was copied last.
    num_cached_B: Tensor
    copied_B: Tensor

    @classmethod
    def start(cls, ids_BP: Tensor, draws_BN: Tensor) -> Self:
        """Rows without an answer."""
        room = ids_BP[:, :1].expand(-1, draws_BN.shape[1] + 1 + _DRAFTS)
        index_B = torch.arange(len(ids_BP), device=ids_BP.device)
        zeros_B = torch.zeros_like(index_B)
        ids_BL = torch.cat([ids_BP, room], dim=1)
        return cls(index_B, ids_BL, ids_BP.shape[1], draws_BN, zeros_B, zeros_B.bool(), zeros_B, zeros_B)

    def select(self, kept: Tensor) -> None:
        """Keeps these rows."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])

    def finished(self) -> dict[int, list[int]]:
        """The finished answers, by their index."""
        kept, start = self.is_finished_B, self.num_prompt
        ends = (start + self.num_new_B[kept]).tolist()
        answers = (row[start:end] for row, end in zip(self.ids_BL[kept].tolist(), ends, strict=True))
        return dict(zip(self.index_B[kept].tolist(), answers, strict=True))

    def last_tokens(self, count: int) -> Tensor:
        """The last tokens [B, count] of each row, from the last one back."""
        last_B1 = (self.num_prompt + self.num_new_B - 1)[:, None]
        places = last_B1 - torch.arange(count, device=last_B1.device)
        return self.ids_BL.gather(1, places.clamp(min=0))

    def draws(self, count: int) -> Tensor:
        """The random numbers [B, count] of the next tokens."""
        next_BT = self.num_new_B[:, None] + torch.arange(count, device=self.ids_BL.device)
        return self.draws_BN.gather(1, next_BT.clamp(max=self.draws_BN.shape[1] - 1))

    def add(self, new_BT: Tensor, drafts_BD: Tensor, ends: Tensor) -> None:
        """Adds the tokens that were sampled after right drafts, up to the end of the answer."""
        is_end_BT = torch.isin(new_BT, ends)
        is_next_BT = torch.ones_like(is_end_BT)
        is_next_BT[:, 1:] = (new_BT[:, :-1] == drafts_BD) & ~is_end_BT[:, :-1]
        count_B = is_next_BT.long().cumprod(dim=1).sum(dim=1)
        count_B = torch.minimum(count_B, self.draws_BN.shape[1] - self.num_new_B)
        count_B = count_B.masked_fill(self.is_finished_B, 0)
        steps_T = torch.arange(new_BT.shape[1], device=new_BT.device)
        is_new_BT = steps_T < count_B[:, None]
        places_BT = self.num_prompt + self.num_new_B[:, None] + steps_T
        self.ids_BL.scatter_(1, places_BT, new_BT.where(is_new_BT, self.ids_BL.gather(1, places_BT)))
        self.num_new_B = self.num_new_B + count_B
        is_over_B = self.num_new_B == self.draws_BN.shape[1]
        self.is_finished_B = self.is_finished_B | is_over_B | (is_end_BT & is_new_BT).any(dim=1)

    def drafts(self) -> Tensor:
        """The tokens [B, D] that followed when the last tokens occurred before.

        Of the places where most of the last three match, the first one after the place copied last.
        """
        ids_BL, tail_B3 = self.ids_BL, self.last_tokens(3)
        places_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        is_match_BL = places_L < (self.num_prompt + self.num_new_B - 1)[:, None]
        num_matches_BL = torch.zeros_like(ids_BL)
        for back, token_B in enumerate(tail_B3.unbind(dim=1)):
            is_match_BL = is_match_BL & (ids_BL.roll(back, dims=1) == token_B[:, None])
            num_matches_BL += is_match_BL
        distance_BL = (places_L - self.copied_B[:, None]) % len(places_L)
        self.copied_B = (num_matches_BL * len(places_L) - distance_BL).argmax(dim=1) + 1
        next_BD = self.copied_B[:, None] + torch.arange(_DRAFTS, device=ids_BL.device)
        return ids_BL.gather(1, next_BD.clamp(max=len(places_L) - 1))


def _can_draft(logits_processor: LogitsProcessorList, inputs: dict[str, Any]) -> bool:
    """Whether tokens can be removed from the cache, and no rule depends on how many there are.

    A model that is given no positions counts the tokens of the cache, of which some rows use only a part.
    """
    return (
        all(isinstance(rule, SuppressTokensLogitsProcessor) for rule in logits_processor)
        and all(isinstance(layer, _BufferedLayer) for layer in inputs["past_key_values"].layers)
        and inputs.get("position_ids") is not None
    )


def _remove_wrong(inputs: dict[str, Any], rows: _Rows, width: int, num_cached: int) -> int:
    """Removes those of the last `width` of `num_cached` tokens that are in no answer; the number left."""
    num_prompt, first_B = rows.num_prompt, rows.num_prompt + rows.num_cached_B
    rows.num_cached_B = rows.num_new_B - 1
    num_left = num_prompt + int(rows.num_cached_B.max())
    is_complete_B = num_prompt + rows.num_cached_B == num_cached
    if num_left == num_cached and (is_complete_B | rows.is_finished_B).all():
        return num_cached
    for layer in inputs["past_key_values"].layers:
        layer.move_last(width, first_B, num_left)
    positions = inputs["position_ids"]
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape[-2:] == (len(first_B), num_cached):
            inputs[name] = value[..., :num_left]
    places = torch.arange(num_left - num_prompt, device=first_B.device)
    inputs["attention_mask"][:, num_prompt:] = places < rows.num_cached_B[:, None]
    steps = torch.minimum(places + 1, rows.num_cached_B[:, None])
    new_positions = positions[..., num_prompt - 1 : num_prompt] + steps
    inputs["position_ids"] = torch.cat([positions[..., :num_prompt], new_positions], dim=-1)
    return num_left


def _penalized(scores_BTV: Tensor, ids_BL: Tensor, drafts_BD: Tensor, penalty: float) -> Tensor:
    """The scores; those of tokens already in the row are divided (if negative, multiplied) by the penalty."""
    seen = [torch.zeros_like(scores_BTV[:, 0], dtype=torch.bool).scatter_(1, ids_BL, True)]
    for draft_B in drafts_BD.unbind(dim=1):
        seen.append(seen[-1].scatter(1, draft_B[:, None], True))
    penalized_BTV = torch.where(scores_BTV < 0, scores_BTV * penalty, scores_BTV / penalty)
    return penalized_BTV.where(torch.stack(seen, dim=1), scores_BTV)


def _choose(scores_BTV: Tensor, draws_BT: Tensor, temperature: float) -> Tensor:
    """The tokens [B, T] that the random numbers select, or the likeliest ones at temperature 0."""
    if temperature == 0:
        return scores_BTV.argmax(dim=-1)
    shares_BTV = (scores_BTV / temperature).softmax(dim=-1).double().cumsum(dim=-1)
    chosen_BT1 = torch.searchsorted(shares_BTV, draws_BT[..., None] * shares_BTV[..., -1:], right=True)
    return chosen_BT1[..., 0].clamp(max=scores_BTV.shape[-1] - 1)


def _select_rows(inputs: dict[str, Any], kept: Tensor, shape: Sequence[int]) -> dict[str, Any]:
    """The cache and the inputs [..., *shape] (mask, positions, types of tokens) of the rows `kept`."""
    inputs["past_key_values"].reorder_cache(kept)
    return {
        name: value[..., kept, :]
        if isinstance(value, Tensor) and value.shape[-2:] == torch.Size(shape)
        else value
        for name, value in inputs.items()
    }


def make_cache(model: Any) -> DynamicCache:
    """The model's own cache, with buffers for full attention, which is not copied for every token."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [_BufferedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _BufferedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [B, heads, tokens, size], views of the start of larger buffers."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends the keys and values of new tokens; returns all."""
        new, start = (key_states, value_states), self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = self.keys, self.values = [tensor[..., :0, :] for tensor in new]
        if end > self.buffers[0].shape[-2]:
            blank = (tensor.new_empty(*tensor.shape[:-2], _BLOCK_TOKENS, tensor.shape[-1]) for tensor in new)
            parts = zip((self.keys, self.values), new, blank, strict=True)
            self.buffers = [torch.cat(part, dim=-2) for part in parts]
        else:
            for buffer, tensor in zip(self.buffers, new, strict=True):
                buffer[..., start:end, :] = tensor
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values

    def move_last(self, count: int, first_B: Tensor, length: int) -> None:
        """Moves the last `count` tokens of each row to its place `first_B`, and keeps `length` tokens."""
        if not self.is_initialized:
            # This layer uses the keys of another one.
            return
        end, rows_B1 = self.get_seq_length(), torch.arange(len(first_B), device=first_B.device)[:, None]
        places_BT = first_B[:, None] + torch.arange(count, device=first_B.device)
        for buffer in self.buffers:
            buffer[rows_B1, :, places_BT] = buffer[..., end - count : end, :].transpose(1, 2).clone()
        self.keys, self.values = (buffer[..., :length, :] for buffer in self.buffers)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps these rows."""
        if not self.is_initialized:
            return
        length = self.get_seq_length()
        self.buffers = [buffer.index_select(0, beam_idx.to(buffer.device)) for buffer in self.buffers]
        self.keys, self.values = (buffer[..., :length, :] for buffer in self.buffers)
