"""Samples answers from the model in this process, each from its own seed, independent of its batch.

B: answers of a batch   L: tokens so far   N: new tokens   V: vocabulary
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StopStringCriteria
from transformers.cache_utils import DynamicLayer

from tempo.config import SamplingConfig
from tempo.model.answers import END_OF_THINKING, THINK, Answer, Request, without_reasoning
from tempo.model.chat import VideoLM

#: Generation settings of a checkpoint, with the only value that works with one seed per answer.
_GENERATION = {"num_beams": 1, "num_return_sequences": 1, "guidance_scale": 1, "token_healing": False}

#: Number of tokens for which a full cache allocates memory at a time.
_BLOCK_TOKENS = 64

#: After every _CHECK_STEPS tokens, finished answers leave the batch if their share is at least _MIN_FINISHED.
#: The check makes the CPU wait for the GPU, and removing answers copies the cache of the others.
_CHECK_STEPS, _MIN_FINISHED = 4, 0.25


def generate(
    lm: VideoLM, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
) -> list[Answer]:
    """One answer per request, in order; all requests of a batch have the same number of frames.

    Requests of a batch with the same prompt and the same array of frames are encoded once.
    Raises ValueError for a setting in the checkpoint's generation_config.json that is not supported.
    """
    for name, value in _GENERATION.items():
        if (found := getattr(lm.model.generation_config, name)) not in (None, value):
            raise ValueError(
                f"model.path: {name} is {found} in the checkpoint's generation_config.json, but each "
                f"answer is sampled from its own seed. Set it to {value} there"
            )
    answers: dict[int, Answer] = {}
    num_frames = [0 if request.frames is None else len(request.frames) for request in requests]
    # Prompts of similar length share a batch, which keeps the padding short.
    order = sorted(range(len(requests)), key=lambda i: (num_frames[i], len(requests[i].prompt), i))
    for _, group in itertools.groupby(order, key=num_frames.__getitem__):
        while batch := list(itertools.islice(group, sampling.batch_size)):
            sampled = _generate_batch(lm, [requests[i] for i in batch], sampling, max_new_tokens)
            answers.update(zip(batch, sampled, strict=True))
    return [answers[i] for i in range(len(requests))]


def _generate_batch(
    lm: VideoLM, requests: Sequence[Request], sampling: SamplingConfig, max_new_tokens: int
) -> list[Answer]:
    keys = [(request.prompt, id(request.frames)) for request in requests]
    prompts = dict(zip(keys, requests, strict=True))
    sources = [[*prompts].index(key) for key in keys]
    texts = [lm.template.render(p.prompt, with_video=p.frames is not None) for p in prompts.values()]
    inputs = lm.inputs(texts, [*prompts.values()])
    _fill_padding(inputs)
    ends = sorted(lm.end_ids(with_video=requests[0].frames is not None))
    # A sampled video or image placeholder would need features in the next step.
    suppressed = {*(lm.model.generation_config.suppress_tokens or ()), *lm.template.media_ids} - set(ends)
    stops = lm.model.generation_config.stop_strings or ()
    rows = lm.model.generate(
        **{name: tensor.to(lm.model.device) for name, tensor in inputs.items()},
        max_new_tokens=max_new_tokens,
        do_sample=False,
        suppress_tokens=sorted(suppressed) or None,
        eos_token_id=ends,
        pad_token_id=lm.tokenizer.pad_token_id if lm.tokenizer.pad_token_id is not None else ends[0],
        # Checkpoints may say otherwise, such as those that were saved while training.
        use_cache=True,
        cache_implementation=None,
        past_key_values=_make_cache(lm.model),
        # With a custom loop, `generate` does not pass on the tokenizer that its stop strings need.
        stop_strings=None,
        stopping_criteria=[StopStringCriteria(lm.tokenizer, stops)] if stops else [],
        # Applied in the loop, because that of transformers fails if a row leaves the batch.
        repetition_penalty=1.0,
        custom_generate=_decode,
        sampling=sampling,
        sources_B=torch.tensor(sources, device=lm.model.device),
        draws_BN=_draw(requests, max_new_tokens).to(lm.model.device),
    )
    stop = re.compile("|".join(map(re.escape, [stops] if isinstance(stops, str) else stops)) or "(?!)")
    return [_read_answer(lm, texts[i], row, ends, stop) for i, row in zip(sources, rows, strict=True)]


def _fill_padding(inputs: dict[str, Tensor]) -> None:
    """Replaces padding, which depends on the other rows, with the first token of its row."""
    is_real_BL, ids_BL = inputs["attention_mask"].bool(), inputs["input_ids"]
    first_B1 = ids_BL.gather(1, is_real_BL.int().argmax(dim=1, keepdim=True))
    inputs["input_ids"] = ids_BL.where(is_real_BL, first_B1)


def _draw(requests: Sequence[Request], num_tokens: int) -> Tensor:
    """Uniform random numbers [B, N] in float64, one per token, from the seed of each request."""
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    return torch.stack([torch.rand(num_tokens, generator=g, dtype=torch.float64) for g in generators])


def _decode(
    model: Any,
    ids_BL: Tensor,
    logits_processor: Callable[[Tensor, Tensor], Tensor],
    stopping_criteria: Any,
    generation_config: Any,
    sampling: SamplingConfig,
    sources_B: Tensor,
    draws_BN: Tensor,
    **inputs: Any,
) -> list[list[int]]:
    """The loop of `generate`: the new tokens of each row, possibly with tokens after its end.

    `sources_B` is the index of the prompt of each row. Finished rows leave the batch.
    """
    num_prompt, answers = ids_BL.shape[1], dict[int, list[int]]()
    rows_B = torch.arange(len(sources_B), device=ids_BL.device)
    is_finished_B = ids_BL.new_zeros(len(sources_B), dtype=torch.bool)
    model_inputs = model.prepare_inputs_for_generation(ids_BL, is_first_iteration=True, **inputs)
    while True:
        outputs = model(**model_inputs, return_dict=True)
        inputs, logits_BV = model._update_model_kwargs_for_generation(outputs, inputs), outputs.logits[:, -1]
        if len(ids_BL) < len(rows_B):
            # The prompts have been processed; now each answer gets a row.
            inputs = _select_rows(inputs, sources_B, (len(ids_BL), ids_BL.shape[1] + 1))
            ids_BL, logits_BV = ids_BL[sources_B], logits_BV[sources_B]
        scores_BV = _penalized(logits_BV.float(), ids_BL, sampling.repetition_penalty)
        scores_BV = logits_processor(ids_BL, scores_BV)
        chosen_B = _choose(scores_BV, draws_BN[:, ids_BL.shape[1] - num_prompt], sampling.temperature)
        ids_BL = torch.cat([ids_BL, chosen_B[:, None]], dim=1)
        is_finished_B = is_finished_B | stopping_criteria(ids_BL, None)
        is_due = (stopping_criteria.max_length - ids_BL.shape[1]) % _CHECK_STEPS == 0
        if is_due and is_finished_B.float().mean() >= _MIN_FINISHED:
            new = ids_BL[is_finished_B, num_prompt:].tolist()
            answers |= zip(rows_B[is_finished_B].tolist(), new, strict=True)
            if is_finished_B.all():
                return [answers[row] for row in range(len(answers))]
            kept = (~is_finished_B).nonzero()[:, 0]
            inputs = _select_rows(inputs, kept, ids_BL.shape)
            ids_BL, rows_B = ids_BL[kept], rows_B[kept]
            draws_BN, is_finished_B = draws_BN[kept], is_finished_B[kept]
        model_inputs = model.prepare_inputs_for_generation(ids_BL, next_sequence_length=1, **inputs)


def _penalized(scores_BV: Tensor, ids_BL: Tensor, penalty: float) -> Tensor:
    """The scores; those of tokens already in the row are divided (if negative, multiplied) by the penalty."""
    seen_BL = scores_BV.gather(1, ids_BL)
    return scores_BV.scatter(1, ids_BL, torch.where(seen_BL < 0, seen_BL * penalty, seen_BL / penalty))


def _choose(scores_BV: Tensor, draws_B: Tensor, temperature: float) -> Tensor:
    """The token of each row that its random number selects, or the likeliest one at temperature 0."""
    if temperature == 0:
        return scores_BV.argmax(dim=-1)
    shares_BV = (scores_BV / temperature).softmax(dim=-1).double().cumsum(dim=-1)
    chosen_B1 = torch.searchsorted(shares_BV, draws_B[:, None] * shares_BV[:, -1:], right=True)
    return chosen_B1[:, 0].clamp(max=scores_BV.shape[1] - 1)


def _select_rows(inputs: dict[str, Any], kept: Tensor, shape: Sequence[int]) -> dict[str, Any]:
    """The cache and the inputs [..., B, L] (mask, positions, types of tokens) of the rows `kept`."""
    inputs["past_key_values"].reorder_cache(kept)
    return {
        name: value[..., kept, :]
        if isinstance(value, Tensor) and value.shape[-2:] == torch.Size(shape)
        else value
        for name, value in inputs.items()
    }


def _make_cache(model: Any) -> DynamicCache:
    """The model's own cache, with buffers for full attention, which is not copied for every token."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [_BufferedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _BufferedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [B, heads, L, size], views of the start of larger buffers to which tokens are added."""

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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps these rows."""
        if not self.is_initialized:
            # This layer uses the keys of another one.
            return
        length = self.get_seq_length()
        self.buffers = [buffer.index_select(0, beam_idx.to(buffer.device)) for buffer in self.buffers]
        self.keys, self.values = (buffer[..., :length, :] for buffer in self.buffers)


def _read_answer(lm: VideoLM, prompt: str, row: list[int], ends: list[int], stop: re.Pattern[str]) -> Answer:
    """The answer of sampled tokens up to its end or a stop string, without its reasoning."""
    row = row[: next((place for place, token in enumerate(row, 1) if token in ends), None)]
    text = lm.tokenizer.decode(row, skip_special_tokens=True).strip()
    # If the end of reasoning is a special token, decoding has removed it.
    marks = {lm.tokenizer.get_vocab().get(END_OF_THINKING)} & {*row}
    if marks and END_OF_THINKING not in text:
        cut = row.index(marks.pop()) + 1
        text = END_OF_THINKING + lm.tokenizer.decode(row[cut:], skip_special_tokens=True)
    is_whole = row[-1] in ends or bool(stop.search(text))
    text = stop.split(text, maxsplit=1)[0].rstrip()
    answer = Answer(text, is_whole, token_ids=tuple(row))
    return without_reasoning(answer, is_open=prompt.rstrip().endswith(THINK))
