"""Runs the rows of a study, with the seeds in parallel, and collects the results.

Each row and seed is a run of the pipeline in its own directory. It reuses the outputs that an earlier row, or
the base run of the seed, generated with the same settings, including the first phases of training. The name
of the directory contains a hash of everything that the row depends on. A study that was stopped continues
with the missing rows.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from research.study.analysis import Results
from research.study.config import TRUTH, StudyConfig, load_study, row_config, select
from research.study.measure import measure
from research.study.output import write_report, write_results
from tempo.config import Config
from tempo.core.files import replace_directory, write_json, write_lines
from tempo.core.hashing import derive_seed, hash_text, held_out_draw
from tempo.core.records import Captions, Clips, Pair, Perturbations, Record, Response, Responses, Skipped
from tempo.core.store import RunStore
from tempo.engine.pool import count_workers, follow_parent
from tempo.engine.types import Context
from tempo.model.loading import check_model_path
from tempo.pipeline.runner import run, run_stages
from tempo.pipeline.stages import fingerprints
from tempo.preference.responses import captions_shown
from tempo.synthetic import language
from tempo.synthetic.world import Story

#: Steps that count as the start of SFT.
NUM_FIRST_STEPS = 10


def run_study(
    config: Path,
    directory: Path,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    num_workers: int = 0,
    command: str,
) -> Results:
    """Runs the missing rows of a study in `directory`; writes `study.json` and `study.md` there.

    `rows` and `seeds` select a part of the study, `num_workers` processes run one seed each, and `command` is
    recorded. Raises ValueError that names the row, before any work for a wrong configuration, and later for
    a row that fails.
    """
    study, plain = load_study(config)
    study = select(study, rows=rows, seeds=seeds)
    for name in study.rows:
        check_model_path(row_config(study, plain, name, seed=study.seeds[0]).model.path)
    # Two processes on one GPU would not be faster.
    workers = num_workers or (1 if torch.cuda.is_available() else count_workers(0))
    workers = min(workers, len(study.seeds))
    work = partial(run_seed, study, plain, directory.resolve())
    with RunStore(directory).lock():
        done = [result for results in map_seeds(work, len(study.seeds), workers) for result in results]
        origin = {
            "command": command,
            "commit": ", ".join(sorted({result["commit"] for result in done})),
            "date": datetime.now(UTC).date().isoformat(),
            "minutes": round(sum(result["seconds"] for result in done) / 60 / workers, 1),
            "seeds": sorted(study.seeds),
        }
        results = Results(study, [result["record"] for result in done], origin)
        write_results(results, directory / "study.json")
        write_report(results, directory / "study.md")
    return results


def map_seeds(work: Any, num_seeds: int, num_workers: int) -> list[list[dict[str, Any]]]:
    """The results of `work` for the number of each seed; an error in one process stops the others."""
    if num_workers == 1:
        return [work(number) for number in range(num_seeds)]
    context = multiprocessing.get_context("spawn")
    threads = max(1, count_workers(0) // num_workers)
    with ProcessPoolExecutor(num_workers, context, initializer=_start_process, initargs=(threads,)) as pool:
        try:
            return list(pool.map(work, range(num_seeds)))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ValueError(
                    "a process died, perhaps because it ran out of memory. Run the same command again to "
                    "continue; --workers 1 needs less memory"
                ) from None
            raise


def _start_process(threads: int) -> None:
    follow_parent()
    # Two processes that each use all cores are far slower than one after the other.
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class RowRun:
    """A finished row: its directory, configuration, `result.json`, and the fingerprints of two stages.

    `pairs` is empty if no other row may reuse the pairs or responses.
    """

    directory: Path
    config: Config
    result: dict[str, Any]
    pairs: str
    responses: str


def run_seed(
    study: StudyConfig, plain: Mapping[str, Any], directory: Path, number: int
) -> list[dict[str, Any]]:
    """The results of all rows with the study's seed `number`; finished rows do not run again.

    Raises ValueError that names a row that fails; finished rows are kept.
    """
    warnings.simplefilter("ignore", FutureWarning)
    seed, done = study.seeds[number], dict[str, RowRun]()
    config = row_config(study, plain, "", seed=seed)
    base = Context(config, directory / f"{seed}-data-{fingerprints(config)['pairs'][:8]}")
    name = "data"
    try:
        run(base.config, base.directory, until="pairs")
        for name in (name for name, row in study.rows.items() if row.has_seed(number)):
            done[name] = _run_row(study, plain, name, base, done)
    except ValueError as error:
        raise ValueError(f"{name}, seed {seed}: {error}") from error
    return [row.result for row in done.values()]


def _run_row(
    study: StudyConfig, plain: Mapping[str, Any], name: str, base: Context, done: Mapping[str, RowRun]
) -> RowRun:
    row, seed, began = study.rows[name], base.config.run.seed, time.perf_counter()
    before, pair_source = done.get(row.start), done.get(row.pairs_from)
    model = before.result["model"] if before else ""
    pairs = str(pair_source.directory / "pairs.jsonl") if pair_source else ""
    config = row_config(study, plain, name, seed=seed, model=model, pairs=pairs)
    hashes = fingerprints(config)
    share, study_share = study.share_of(name), study.held_out_share
    parts = [hashes["training"], row.pairs_from, share, row.blind, study.probe_videos, study_share]
    parts += [base.directory.name, row.noise]
    directory = base.directory.parent / f"{seed}-{name}-{hash_text(json.dumps(parts))[:8]}"
    context = Context(config, directory)
    # The fingerprint does not depend on whether the captions are the true ones.
    own_pairs = "" if row.pairs_from == TRUTH else f"{hashes['pairs']}-{share}-{row.noise}"
    if not (directory / "result.json").exists():
        same = [one for one in done.values() if own_pairs and one.pairs == own_pairs]
        if config.training.phases:
            own = [one for one in done.values() if one.pairs and not one.config.pairs.import_from]
            alike = [one for one in own if one.responses == hashes["responses"]]
            source = (*same, *alike, base)[0].directory
            _make_pairs(context, source, truth=not own_pairs)
            _leave_out_pairs(context, share)
            _add_noise(context, row.noise)
            _share_phases(context, same)
            run_stages(context, Console(quiet=True), only="training")
            model = str(directory / "model")
        model = model or config.model.path
        options = {"held_out_share": study_share, "num_videos": study.probe_videos}
        figures = measure(base, model, blind=row.blind, **options)
        training = _training(context, before)
        record = {"row": name, "seed": seed, "phases": training.pop("phases"), **figures, **training}
        seconds = round(time.perf_counter() - began, 1)
        result = {"record": record, "model": model, "seconds": seconds, "commit": _commit()}
        write_json(directory / "result.json", result)
        print(f"seed {seed}, {name}: {seconds:.0f} s", flush=True)
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return RowRun(directory, config, result, own_pairs if config.training.phases else "", hashes["responses"])


def _make_pairs(context: Context, source: Path, *, truth: bool) -> None:
    """Runs all stages up to the pairs, like `tempo run --from`; with `truth`, captions come from scripts."""
    run_until = partial(run, context.config, context.directory, from_run=source)
    if truth:
        run_until(until="clips")
        _write_true_captions(context)
        run(context.config, context.directory, until="perturbations")
        _write_true_responses(context)
        run_until = partial(run, context.config, context.directory)
    run_until(until="pairs")


def _leave_out_pairs(context: Context, share: float) -> None:
    """Removes the pairs of a share of the videos; a second call changes nothing."""
    store, seed = RunStore(context.directory), context.config.run.seed
    kept = [p for p in store.read("pairs", Pair) if held_out_draw(p.video_id, seed=seed) >= share]
    write_lines(store.path("pairs"), (pair.model_dump_json() for pair in kept))


def _add_noise(context: Context, share: float) -> None:
    """Swaps the chosen answer and the last rejected one of a share of the videos and levels.

    A second call, and one on the pairs of a row with the same noise, changes nothing.
    """
    if not share:
        return
    store, seed = RunStore(context.directory), context.config.run.seed
    right = {row.id: row.chosen for row in store.read("responses", Responses)}

    def place(pair: Pair) -> tuple[str, int]:
        return pair.video_id, pair.level

    noisy = list[Pair]()
    for (video_id, level), group in groupby(sorted(store.read("pairs", Pair), key=place), key=place):
        *others, last = group
        if derive_seed(seed, video_id, level, "noise") / 2**63 < share and last.chosen == right[video_id]:
            others = [pair.model_copy(update={"chosen": last.rejected}) for pair in others]
            last = last.model_copy(update={"chosen": last.rejected, "rejected": last.chosen})
        noisy += [*others, last]
    write_lines(store.path("pairs"), (pair.model_dump_json() for pair in noisy))


def _share_phases(context: Context, others: Sequence[RowRun]) -> None:
    """Links the first phases that another row has trained on the same pairs, instead of repeating them."""
    for other in others:
        phases = other.config.training.phases
        both = zip(context.config.training.phases, phases, strict=False)
        shared = [phase for phase, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
        # The adapter has the LoRA phases after the last full-weight phase, those of `shared` first.
        while shared and shared[-1].lora_rank and not all(phase.lora_rank for phase in phases[len(shared) :]):
            shared.pop()
        for number, phase in enumerate(shared, 1):
            place = f"train/{number:02d}-{phase.name}"
            if (other.directory / place / "done.json").exists() and not (context.directory / place).exists():
                _link(other.directory / "adapter", context.directory / "adapter")
                _link(other.directory / place, context.directory / place)


def _link(source: Path, target: Path) -> None:
    """Replaces `target` by hard links to the files of `source`, if that exists."""
    if source.exists():
        with replace_directory(target) as folder:
            shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)


def _write_true_captions(context: Context) -> None:
    """Finishes the captions stage with true captions; skips videos whose clips do not match their events."""
    scripts = RunStore(context.directory / "synthetic" / "videos").rows("scripts", Story)
    rows: list[Record] = []
    for video in RunStore(context.directory).read("clips", Clips):
        events = scripts[Path(video.path).stem].events
        if len(events) == len(video.clips):
            rows.append(Captions(id=video.id, captions=tuple(map(language.caption, events))))
        else:
            detail = f"{len(video.clips)} clips, {len(events)} events"
            rows.append(
                Skipped(stage="captions", id=video.id, reason="clips do not match events", detail=detail)
            )
    _finish(context, "captions", rows)


def _write_true_responses(context: Context) -> None:
    """Finishes the responses stage with the captions fused in the true order and in every perturbed one."""
    store = RunStore(context.directory)
    captions = store.rows("captions", Captions)
    rows = []
    for row in store.read("perturbations", Perturbations):
        rejected = [
            Response(
                perturbation=p, text=language.fuse(captions_shown(captions, row.id, p.order, p.replaced))
            )
            for p in row.perturbations
        ]
        chosen = language.fuse(captions[row.id].captions[: row.num_clips])
        rows.append(Responses(id=row.id, num_clips=row.num_clips, chosen=chosen, rejected=tuple(rejected)))
    _finish(context, "responses", rows)


def _finish(context: Context, stage: str, rows: Sequence[Record]) -> None:
    store, fingerprint = RunStore(context.directory), fingerprints(context.config)[stage]
    if store.is_done(stage):
        return
    store.forget(stage)
    store.begin(stage, fingerprint)
    store.append(stage, rows)
    store.finish(stage, fingerprint)


def _training(context: Context, before: RowRun | None) -> dict[str, Any]:
    """The training of a row for `study.json`, including that of `before`, the row that it starts from.

    `phases` lists the phases that had examples; `seconds` is the duration of their steps.
    """
    phases, start, all_steps = list[str](), None, list[dict[str, Any]]()
    for number, phase in enumerate(context.config.training.phases, 1):
        path = context.directory / "train" / f"{number:02d}-{phase.name}" / "metrics.jsonl"
        if path.exists():
            steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if phase.objective == "sft" and not start:
                first = steps[:NUM_FIRST_STEPS]
                start = {key: [step[key] for step in first] for key in ("loss", "grad_norm")}
            phases.append(phase.name)
            all_steps += steps
    known = before.result["record"] if before else {"phases": [], "num_steps": 0, "seconds": 0, "config": []}
    own = [phase.model_dump(mode="json", exclude_defaults=True) for phase in context.config.training.phases]
    return {
        "phases": known["phases"] + phases,
        "sft_start": known.get("sft_start") or start,
        "num_steps": known["num_steps"] + len(all_steps),
        "seconds": round(known["seconds"] + sum(step["seconds"] for step in all_steps), 1),
        "config": known["config"] + own,
    }


def _commit() -> str:
    """The commit of the checkout, with `+` if files differ from it; empty outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
