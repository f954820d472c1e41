"""Tokens per second of `tempo.model.generate` and of transformers' own loop, on answers of different lengths.

The embedded model samples nearly uniformly, so that an answer ends after 20 to 800 tokens: at each token from
the 20th on, with probability 3 in 630. Both decode the same prompts in static batches of 32; transformers'
loop runs each batch to its longest answer. Only tokens up to the end of an answer count.
"""

from __future__ import annotations

import argparse
import statistics
import time

import harness
import torch

from tempo import VideoLM, load_model
from tempo.config import SamplingConfig
from tempo.model.answers import Request
from tempo.model.generate import generate

TEMPERATURE, BATCH = 100.0, 32


def measure_ours(lm: VideoLM, prompts: list[str], max_tokens: int) -> float:
    """Tokens per second of `generate`."""
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    sampling = SamplingConfig(temperature=TEMPERATURE, repetition_penalty=1.0, batch_size=BATCH)
    start = time.perf_counter()
    answers = generate(lm, requests, sampling=sampling, max_new_tokens=max_tokens)
    seconds = time.perf_counter() - start
    return sum(len(answer.token_ids) for answer in answers) / seconds


def measure_peer(lm: VideoLM, prompts: list[str], max_tokens: int) -> float:
    """Tokens per second of transformers' loop."""
    num_tokens, start = 0, time.perf_counter()
    ends = sorted(lm.end_ids(with_video=False))
    for first in range(0, len(prompts), BATCH):
        texts = [lm.template.render(prompt, with_video=False) for prompt in prompts[first : first + BATCH]]
        inputs = lm.inputs(texts)
        options = {
            "do_sample": True,
            "top_k": 0,
            "temperature": TEMPERATURE,
            "suppress_tokens": [*lm.template.media_ids],
        }
        rows = lm.model.generate(**inputs, **options, max_new_tokens=max_tokens, eos_token_id=ends)
        new = rows[:, inputs["input_ids"].shape[1] :]
        is_end = torch.isin(new, torch.tensor(ends))
        num_tokens += int((is_end.cumsum(dim=1) - is_end.long() == 0).sum())
    return num_tokens / (time.perf_counter() - start)


def main(given: list[str] | None = None) -> None:
    """Prints the table and writes the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=800, help="of the longest answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", action="store_true", help="write no row")
    arguments = parser.parse_args(given)
    harness.quiet_environment(1)
    torch.set_num_threads(1)
    lm = load_model("embedded")
    lm.model.generation_config.eos_token_id = [2, 100, 101]
    lm.model.generation_config.min_new_tokens = 20
    prompts = [
        f"Describe the video in order. {'Tell more. ' * (index % 20)}" for index in range(arguments.prompts)
    ]
    rates = [
        (measure_ours(lm, prompts, arguments.tokens), measure_peer(lm, prompts, arguments.tokens))
        for _ in range(arguments.rounds)
    ]
    ours, peer = (statistics.median(rate) for rate in zip(*rates, strict=True))
    ratio = statistics.median(own / other for own, other in rates)
    row = harness.Row(
        benchmark="generation",
        setting=f"{arguments.prompts} answers of 20 to {arguments.tokens} tokens, batches of {BATCH}",
        ours=round(ours, 1),
        peer=round(peer, 1),
        peer_name="transformers' loop",
        unit="tokens/s",
        ratio=round(ratio, 3),
    )
    if not arguments.trial:
        harness.add_rows([row])
    print(harness.rows_table([row]))


if __name__ == "__main__":
    main()
