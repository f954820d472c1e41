"""Writes the embedded world to disk: videos with their scripts, instruction data, a benchmark."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from tempo.config import SyntheticConfig
from tempo.core.records import Instruction
from tempo.core.seeds import derive_seed
from tempo.core.store import write_lines
from tempo.engine.pool import follow_parent
from tempo.synthetic import benchmark, language
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import Story, make_story

#: Held-out stories are numbered from here, so that no size of the training set reaches them.
FIRST_HELD_OUT = 1_000_000


def make_dataset(
    config: SyntheticConfig, directory: Path, *, seed: int, num_workers: int, progress: Callable[[], None]
) -> None:
    """Writes `videos/` and `held_out/` with their scripts, instructions, and `held_out/benchmark.jsonl`.

    Videos that are there already are kept; `progress` is called once per video.
    """
    train, held_out = list(_train_stories(config, seed)), list(_held_out_stories(config, seed))
    twins = [benchmark.twin(story) for story in held_out]
    jobs = [(story, directory / "videos") for story in train]
    jobs += [(story, directory / "held_out") for story in [*held_out, *twins]]
    for _, folder in jobs:
        folder.mkdir(parents=True, exist_ok=True)
    # Encoding releases nothing: processes, not threads, and few jobs in flight so that Ctrl-C is quick.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=follow_parent) as pool:
        for _ in pool.map(_render, *zip(*jobs, strict=True), chunksize=4):
            progress()
    _write_scripts(directory / "videos", train)
    _write_scripts(directory / "held_out", [*held_out, *twins])
    rows = _instructions(train, seed=seed, order_fidelity=config.order_fidelity)
    write_lines(directory / "instructions.jsonl", (row.model_dump_json() for row in rows))
    samples = [
        s for i, story in enumerate(held_out) for s in benchmark.story_samples(story, seed=seed, number=i)
    ]
    samples += [s for story in held_out for s in benchmark.conflicting_samples(story)]
    write_lines(directory / "held_out" / "benchmark.jsonl", (sample.model_dump_json() for sample in samples))


def _train_stories(config: SyntheticConfig, seed: int) -> Iterator[Story]:
    num_plain = round(config.plain_share * config.num_videos)
    for index in range(config.num_videos):
        plain = index >= config.num_videos - num_plain
        yield make_story(seed, index, num_shots=(config.min_shots, config.max_shots), plain=plain)


def _held_out_stories(config: SyntheticConfig, seed: int) -> Iterator[Story]:
    for index in range(config.num_held_out):
        yield make_story(seed, FIRST_HELD_OUT + index, num_shots=(config.min_shots, config.max_shots))


def _render(story: Story, folder: Path) -> None:
    path = folder / f"{story.id}.mp4"
    if not path.exists():
        render_story(story, path)


def _write_scripts(folder: Path, stories: list[Story]) -> None:
    write_lines(folder / "scripts.jsonl", (story.model_dump_json() for story in stories))


def _instructions(stories: list[Story], *, seed: int, order_fidelity: float) -> Iterator[Instruction]:
    """Instruction data of all stories; paths are relative to the file they will stand in."""
    for story in stories:
        rng = np.random.default_rng(derive_seed(seed, story.id, "instructions"))
        for index, (question, answer) in enumerate(
            language.instructions(story, rng, order_fidelity=order_fidelity)
        ):
            yield Instruction(
                id=f"{story.id}/{index}", video=f"videos/{story.id}.mp4", question=question, answer=answer
            )
