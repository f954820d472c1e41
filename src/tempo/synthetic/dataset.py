"""Writes the embedded world to disk: videos with their scripts, instruction data, a benchmark."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from tempo.config import SyntheticConfig
from tempo.core.files import write_lines
from tempo.core.hashing import derive_seed
from tempo.core.records import Instruction, Record
from tempo.engine.pool import follow_parent
from tempo.synthetic.benchmark import conflicting_samples, conflicting_stories, story_samples
from tempo.synthetic.drawing import render_story
from tempo.synthetic.language import instructions
from tempo.synthetic.world import Story, make_story

#: Number of the first held-out story, larger than any training set.
FIRST_HELD_OUT = 1_000_000


def make_dataset(
    config: SyntheticConfig, directory: Path, *, seed: int, num_workers: int, progress: Callable[[], None]
) -> None:
    """Writes `videos/` and `held_out/` with their scripts, instructions, and `held_out/benchmark.jsonl`.

    Existing videos are kept; `progress` is called once per video.
    """
    num_shots = (config.min_shots, config.max_shots)
    # Plain stories come last.
    num_rich = config.num_videos - round(config.plain_share * config.num_videos)
    train = [make_story(seed, i, num_shots=num_shots, plain=i >= num_rich) for i in range(config.num_videos)]
    numbers = range(FIRST_HELD_OUT, FIRST_HELD_OUT + config.num_held_out)
    held_out = [make_story(seed, number, num_shots=num_shots) for number in numbers]
    pairs = [
        (story, other, kind)
        for number, story in enumerate(held_out)
        for kind, other in conflicting_stories(story, number=number).items()
    ]
    others = [other for _, other, _ in pairs]
    folders = {directory / "videos": train, directory / "held_out": [*held_out, *others]}
    jobs = [(story, folder / f"{story.id}.mp4") for folder, stories in folders.items() for story in stories]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    # Processes, because encoding does not release the GIL; small chunks keep Ctrl-C fast.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=follow_parent) as pool:
        for _ in pool.map(_render, *zip(*jobs, strict=True), chunksize=4):
            progress()
    samples = [s for i, story in enumerate(held_out) for s in story_samples(story, seed=seed, number=i)]
    samples += [sample for pair in pairs for sample in conflicting_samples(*pair)]
    asked = [
        Instruction(id=f"{story.id}/{i}", video=f"videos/{story.id}.mp4", question=question, answer=answer)
        for story in train
        for rng in [np.random.default_rng(derive_seed(seed, story.id, "instructions"))]
        for i, (question, answer) in enumerate(instructions(story, rng, order_fidelity=config.order_fidelity))
    ]
    files: dict[Path, Sequence[Record]] = {path / "scripts.jsonl": rows for path, rows in folders.items()}
    files |= {directory / "held_out/benchmark.jsonl": samples, directory / "instructions.jsonl": asked}
    for path, rows in files.items():
        write_lines(path, (row.model_dump_json() for row in rows))


def _render(story: Story, path: Path) -> None:
    if not path.exists():
        render_story(story, path)
