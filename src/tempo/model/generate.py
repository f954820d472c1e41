"""Samples answers from the model in this process, each from its own seed, independent of its batch.

B: answers of a batch   L: tokens of a prompt   N: new tokens
"""

import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import StopStringCriteria

from tempo.config import SamplingConfig
from tempo.model.answers import END_OF_THINKING, THINK, Answer, Request, without_reasoning
from tempo.model.chat import VideoLM
from tempo.model.sampling import decode, make_cache

#: Generation settings of a checkpoint, with the only value that works with one seed per answer.
_GENERATION = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "guidance_scale": 1,
    "token_healing": False,
    "max_time": None,
}


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
        past_key_values=make_cache(lm.model),
        # With a custom loop, `generate` does not pass on the tokenizer that its stop strings need.
        stop_strings=None,
        stop_rule=StopStringCriteria(lm.tokenizer, stops) if stops else None,
        # Applied in the loop, because that of transformers fails if a row leaves the batch.
        repetition_penalty=1.0,
        custom_generate=decode,
        sampling=sampling,
        sources_B=torch.tensor(sources, device=lm.model.device),
        draws_BN=_draw(requests, max_new_tokens).to(lm.model.device),
        ends=torch.tensor(ends, device=lm.model.device),
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


def _read_answer(lm: VideoLM, prompt: str, row: list[int], ends: list[int], stop: re.Pattern[str]) -> Answer:
    """The answer of sampled tokens up to a stop string, without its reasoning."""
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
