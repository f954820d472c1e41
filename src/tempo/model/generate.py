"""Answers sampled from the model in this process, each from its own seed, whatever else is in its batch.

B: answers of a batch   V: vocabulary
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from tempo.config import SamplingConfig
from tempo.model.answers import END_OF_THINKING, THINK, Answer, Request, without_reasoning
from tempo.model.chat import VideoLM

#: Settings of a checkpoint that change how it generates, with the only value that sampling by seeds allows.
_GENERATION = {"num_beams": 1, "num_return_sequences": 1}


def generate(
    lm: VideoLM, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
) -> list[Answer]:
    """One answer per request, in order; all requests of a batch have the same number of frames.

    Raises ValueError if the checkpoint's generation_config.json asks for beam search.
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


@torch.no_grad()
def _generate_batch(
    lm: VideoLM, requests: Sequence[Request], sampling: SamplingConfig, max_new_tokens: int
) -> list[Answer]:
    texts = [lm.render(request.prompt, with_video=request.frames is not None) for request in requests]
    videos = [request.frames for request in requests if request.frames is not None]
    times = [request.seconds for request in requests] if videos else []
    inputs = lm.inputs(texts, videos or None, fps=[request.fps for request in requests], seconds=times)
    inputs = {name: tensor.to(lm.model.device) for name, tensor in inputs.items()}
    ends = sorted(lm.end_ids(with_video=bool(videos)))
    # A drawn placeholder of a video or image would need features in the next step.
    suppressed = {*(lm.model.generation_config.suppress_tokens or ()), *lm.media_ids} - set(ends)
    processors = [_SeededSampling(requests, sampling.temperature)] if sampling.temperature > 0 else []
    stops = lm.model.generation_config.stop_strings or ()
    output = lm.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=sampling.repetition_penalty,
        logits_processor=processors,
        suppress_tokens=sorted(suppressed) or None,
        return_dict_in_generate=False,
        tokenizer=lm.tokenizer,
        eos_token_id=ends,
        pad_token_id=lm.tokenizer.pad_token_id if lm.tokenizer.pad_token_id is not None else ends[0],
    )
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    stop = re.compile("|".join(map(re.escape, [stops] if isinstance(stops, str) else stops)) or "(?!)")
    return [_read_answer(lm, text, row, ends, stop) for text, row in zip(texts, rows, strict=True)]


def _read_answer(lm: VideoLM, prompt: str, row: list[int], ends: list[int], stop: re.Pattern[str]) -> Answer:
    """The answer of sampled tokens up to a stop string of the checkpoint, without its reasoning."""
    text = lm.tokenizer.decode(row, skip_special_tokens=True).strip()
    # Where the end of reasoning is a special token, decoding has removed it.
    marks = {lm.tokenizer.get_vocab().get(END_OF_THINKING)} & {*row}
    if marks and END_OF_THINKING not in text:
        cut = row.index(marks.pop()) + 1
        text = END_OF_THINKING + lm.tokenizer.decode(row[cut:], skip_special_tokens=True)
    is_whole = any(end in row for end in ends) or bool(stop.search(text))
    text = stop.split(text, maxsplit=1)[0].rstrip()
    return without_reasoning(Answer(text, is_whole), is_open=prompt.rstrip().endswith(THINK))


class _SeededSampling:
    """A logits processor that samples the token of each row from the generator of that row.

    It masks all other tokens, so that greedy decoding picks the sampled one.
    """

    def __init__(self, requests: Sequence[Request], temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(request.seed) for request in requests]

    def __call__(self, _: Tensor, scores_BV: Tensor) -> Tensor:
        shares_BV = (scores_BV.float() / self.temperature).softmax(dim=-1).double().cumsum(dim=-1)
        draws_B1 = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self.generators])
        chosen_B1 = torch.searchsorted(shares_BV, draws_B1.to(shares_BV) * shares_BV[:, -1:], right=True)
        chosen_B1 = chosen_B1.clamp(max=scores_BV.shape[1] - 1)
        return torch.full_like(scores_BV, -torch.inf).scatter(1, chosen_B1, 0.0)
