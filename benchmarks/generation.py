"""Tokens per second of `tempo.model.generate` and of transformers' own loop, on two sets of prompts.

`demo`: the captions of synthetic stories, in the original and in random orders, as in the responses of
`make demo`. `ragged`: the embedded model samples nearly uniformly, so that an answer ends after 20 to 800
tokens: at each token from the 20th on, with probability 3 in 630.

Both decode the same prompts in static batches of 32 with one thread; transformers' loop runs each batch to
its longest answer. Only tokens up to the end of an answer count.
"""

from __future__ import annotations

import argparse
import statistics
import time

import harness
import numpy as np
import torch

from tempo import VideoLM, load_model
from tempo.config import SamplingConfig
from tempo.model.answers import Request
from tempo.model.generate import generate
from tempo.preference.prompts import fusion
from tempo.synthetic.language import caption
from tempo.synthetic.world import make_story

BATCH = 32

#: Temperature and repetition penalty of each set of prompts.
SETTINGS = {"demo": (0.7, 1.05), "ragged": (100.0, 1.0)}


def demo_prompts(count: int) -> list[str]:
    """The captions of stories of 4 to 14 shots, each in 13 orders, the first of which is the original."""
    rng, prompts = np.random.default_rng(0), list[str]()
    for number in range(count):
        captions = [caption(event) for event in make_story(0, number // 13, num_shots=(4, 14)).events]
        order = rng.permutation(len(captions)) if number % 13 else range(len(captions))
        prompts.append(fusion([captions[index] for index in order]))
    return prompts


def measure_ours(lm: VideoLM, prompts: list[str], name: str, max_tokens: int) -> float:
    """Tokens per second of `generate`."""
    temperature, penalty = SETTINGS[name]
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    sampling = SamplingConfig(temperature=temperature, repetition_penalty=penalty, batch_size=BATCH)
    start = time.perf_counter()
    answers = generate(lm, requests, sampling=sampling, max_new_tokens=max_tokens)
    return sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - start)


def measure_peer(lm: VideoLM, prompts: list[str], name: str, max_tokens: int) -> float:
    """Tokens per second of transformers' loop."""
    num_tokens, start = 0, time.perf_counter()
    ends, (temperature, penalty) = sorted(lm.end_ids(with_video=False)), SETTINGS[name]
    options = {"do_sample": True, "top_k": 0, "temperature": temperature, "repetition_penalty": penalty}
    for first in range(0, len(prompts), BATCH):
        texts = [lm.template.render(prompt, with_video=False) for prompt in prompts[first : first + BATCH]]
        inputs = lm.inputs(texts)
        options |= {"suppress_tokens": [*lm.template.media_ids], "eos_token_id": ends}
        rows = lm.model.generate(**inputs, **options, max_new_tokens=max_tokens)
        new = rows[:, inputs["input_ids"].shape[1] :]
        is_end = torch.isin(new, torch.tensor(ends))
        num_tokens += int((is_end.cumsum(dim=1) - is_end.long() == 0).sum())
    return num_tokens / (time.perf_counter() - start)


def load(name: str) -> VideoLM:
    """The embedded model, whose answers have different lengths if `name` is "ragged"."""
    lm = load_model("embedded")
    if name == "ragged":
        lm.model.generation_config.eos_token_id = [2, 100, 101]
        lm.model.generation_config.min_new_tokens = 20
    return lm


def main(given: list[str] | None = None) -> None:
    """Prints the table and writes the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=800, help="of the longest ragged answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", action="store_true", help="write no row")
    arguments = parser.parse_args(given)
    harness.quiet_environment(1)
    torch.set_num_threads(1)
    ragged = [f"Describe the video in order. {'Tell more. ' * (i % 20)}" for i in range(arguments.prompts)]
    sets = {"demo": (demo_prompts(arguments.prompts), 256), "ragged": (ragged, arguments.tokens)}
    rows = []
    for name, (prompts, max_tokens) in sets.items():
        lm, rates = load(name), list[tuple[float, float]]()
        for _ in range(arguments.rounds):
            rates.append(tuple(f(lm, prompts, name, max_tokens) for f in (measure_ours, measure_peer)))
        ours, peer = (statistics.median(rate) for rate in zip(*rates, strict=True))
        rows.append(
            harness.Row(
                benchmark="generation",
                setting=f"{len(prompts)} {name} answers of up to {max_tokens} tokens, batches of {BATCH}",
                ours=round(ours, 1),
                peer=round(peer, 1),
                peer_name="transformers' loop",
                unit="tokens/s",
                ratio=round(statistics.median(own / other for own, other in rates), 3),
            )
        )
    if not arguments.trial:
        harness.add_rows(rows)
    print(harness.rows_table(rows))


if __name__ == "__main__":
    main()
