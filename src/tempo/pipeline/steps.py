"""Functions that run a whole stage, each described in `stages.py`, and checks before any work.

Each imports its package only when it is called.
"""

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from tempo.config import Config
from tempo.core.files import write_lines
from tempo.core.progress import Counter, counters
from tempo.core.records import Skipped, Video, file_of
from tempo.core.store import SKIPPED, RunStore
from tempo.engine import pool as engine
from tempo.engine.ranks import call_to_training, shards_weights
from tempo.engine.types import Context, count_workers, flatten
from tempo.model.loading import check_model_path


def run_synthetic(context: Context, console: Console) -> None:
    from tempo.synthetic.dataset import make_dataset

    settings = context.config.synthetic
    assert settings is not None
    with Counter(console, "synthetic", settings.num_videos + 3 * settings.num_held_out).live() as counter:
        make_dataset(
            settings,
            context.directory / "synthetic",
            seed=context.config.run.seed,
            num_workers=count_workers(context.config.run.num_workers),
            progress=counter.advance,
        )


def run_videos(context: Context, console: Console) -> None:
    """Identifies every file by its content. Of files with the same content, only the first is kept."""
    from tempo.video.find import VideoFile, count_other_files

    store = RunStore(context.directory)
    batches = [[VideoFile(id=path)] for path in new_files(context)]
    worker = "tempo.video.find:make_worker"
    with Counter(console, "videos", len(batches)).live() as counter:
        for result in engine.map_batches(worker, context, batches, place="pool", stage="videos"):
            store.append("videos", flatten(result))
            counter.advance()
    videos = context.config.videos
    if counts := count_other_files(videos.paths, videos.extensions):
        named = ", ".join(f"{suffix or 'none'} {count}" for suffix, count in counts.most_common(5))
        text = f"{counts.total()} files with other extensions ({named}) were ignored"
        console.print(f"videos: {text}. Add an extension to videos.extensions to use them")
    first: dict[str, Video] = {}
    skipped, known = list[Skipped](), store.handled_ids("videos")
    for video in sorted(store.read("videos", Video), key=lambda video: video.path):
        if first.setdefault(video.id, video) is not video and video.path not in known:
            detail = f"same content as {first[video.id].path}"
            skipped.append(Skipped(stage="videos", id=video.path, reason="duplicate", detail=detail))
    store.append(SKIPPED, skipped)
    write_lines(store.path("videos"), (video.model_dump_json() for video in first.values()))
    check_trainable(context)


def new_files(context: Context) -> list[str]:
    """The files in `videos.paths` that are not in the run yet; raises ValueError if there are no files."""
    from tempo.video.find import find_videos

    store = RunStore(context.directory)
    paths = context.config.videos.paths or (str(context.directory / "synthetic" / "videos"),)
    files = [str(path) for path in find_videos(paths, context.config.videos.extensions)]
    handled = {row.path for row in store.read("videos", Video)} | store.handled_ids("videos")
    return [path for path in files if path not in handled]


def run_pairs(context: Context, console: Console) -> None:
    """Makes or imports all pairs; those of held-out videos are written to a separate file."""
    from tempo.preference.importing import import_pairs
    from tempo.preference.pairs import HELD_OUT, REJECTED, make_pairs

    store = RunStore(context.directory)
    made = import_pairs(context) if context.config.pairs.import_from else make_pairs(context)
    known = store.handled_ids("pairs")
    store.append(SKIPPED, [row for row in made.skipped if row.id not in known])
    write_lines(store.path("pairs"), (pair.model_dump_json() for pair in made.pairs))
    if made.rejected:
        write_lines(store.path(REJECTED), (pair.model_dump_json() for pair in made.rejected))
    held_out = ""
    if context.config.evaluation.held_out_share:
        write_lines(store.path(HELD_OUT), (pair.model_dump_json() for pair in made.held_out))
        num_videos = len({file_of(pair.video_id) for pair in made.held_out})
        held_out = f"{len(made.held_out)} held out for the evaluation (videos: {num_videos}), "
    console.print(f"pairs: {len(made.pairs)} kept, {held_out}{len(made.skipped)} filtered out")


def run_audit(context: Context, console: Console) -> None:
    from tempo.preference.audit import audit_run

    with counters(console) as show:
        audit = audit_run(context, progress=partial(show, "audit by the model"))
    console.print(f"audit: {audit.verdict}")


def run_training(context: Context, console: Console) -> None:
    """Trains all phases that are not finished, together with the other processes."""
    from tempo.training import phases
    from tempo.training.instructions import match_questions
    from tempo.training.trackers import tracked

    config, store = context.config, RunStore(context.directory)
    if any(phase.objective == "sft" for phase in config.training.phases):
        known, skipped = store.handled_ids("training"), match_questions(context)[1]
        store.append(SKIPPED, {row.id: row for row in skipped if row.id not in known}.values())
        for row in skipped[:1]:
            console.print(f"training: {len(skipped)} instructions skipped, such as {row.id}: {row.reason}")
    call_to_training(context.config.model.device, is_needed=True)
    names = {"loss": "loss", "reward": "reward"}
    names |= {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    with counters(console) as show, tracked(context), engine.all_cores(config):

        def show_step(directory: Path, step: int, num_steps: int, row: dict[str, float]) -> None:
            figures = (f"{short} {row[name]:.3f}" for name, short in names.items() if name in row)
            show(str(directory.relative_to(context.directory)), step, num_steps, " ".join(figures))

        phases.run_training(phases.Session(context, show_step, console.print))


def join_training(context: Context) -> None:
    """Takes part in training whenever the first process starts it."""
    from tempo.training import phases

    # The first process names bad rows.
    warnings.simplefilter("ignore", UserWarning)
    while call_to_training(context.config.model.device, is_needed=False):
        with engine.all_cores(context.config):
            phases.run_training(phases.Session(context))


def run_evaluation(context: Context, console: Console) -> None:
    from tempo.evaluation.figures import read_tables
    from tempo.evaluation.run import run_evaluation as evaluate
    from tempo.training.trackers import tracked

    with tracked(context, lambda: read_tables(context.directory)), counters(console) as show:
        evaluate(context, lambda model, done, total: show(f"evaluation of {model}", done, total))


def run_report(context: Context, console: Console) -> None:
    from tempo.report.cards import write_cards
    from tempo.report.report import write_report

    write_cards(context)
    write_report(context)


def check_paths(config: Config, file_keys: Iterable[str]) -> None:
    """Raises ValueError if a video, a checkpoint, or a file that one of `file_keys` names is missing."""
    check_model_path(config.model.path)
    for key in file_keys:
        if (value := attrgetter(key)(config)) and not Path(value).is_file():
            raise ValueError(f"{key}: {value} does not exist. Check the path")
    for path in config.videos.paths:
        if not Path(path).expanduser().exists():
            raise ValueError(f"videos.paths: {path!r} does not exist. Check the path")


def check_model(config: Config) -> None:
    """Raises ValueError if the model cannot be used. Reads its weights once, but does not keep them."""
    from tempo.model.loading import check_device, load_model

    if shards_weights() and config.model.quantization != "none":
        raise ValueError("model.quantization: FSDP2 cannot shard four-bit weights. Use ddp.yaml")
    if shards_weights() and any(phase.objective == "grpo" for phase in config.training.phases):
        raise ValueError("objective 'grpo' samples from the model, which FSDP2 shards. Use ddp.yaml")
    # On a Ray cluster, the devices are on its machines.
    if config.run.engine == "local":
        check_device(config.model.device)
    load_model(config.model.path, device="meta", trust_remote_code=config.model.trust_remote_code)


def check_limits(config: Config, console: Console, stages: Sequence[str]) -> None:
    """Prints a warning if frames are closer together than the model's positions can distinguish.

    Raises ValueError if answers in one of the `stages` may have more tokens than the model has positions.
    """
    from tempo.model.chat import max_positions
    from tempo.model.loading import frame_rate_warning, read_config

    found = read_config(config.model.path, trust_remote_code=config.model.trust_remote_code)
    for name in ("captions", "responses"):
        count, limit = getattr(config, name).max_new_tokens, max_positions(found)
        if name in stages and count >= limit:
            detail = f"the model has {limit} positions, prompt included (max_position_embeddings)"
            raise ValueError(f"{name}.max_new_tokens is {count}, but {detail}. Lower it")
    if warning := frame_rate_warning(found, config.frames.fps):
        console.print(warning)


def check_trainable(context: Context) -> None:
    """Raises ValueError if too many rows are about unknown videos, or a question or video is too long."""
    from tempo.preference.importing import import_pairs
    from tempo.training.examples import check_longest
    from tempo.training.instructions import match_questions

    if context.config.pairs.import_from:
        import_pairs(context)
    check_longest(context, match_questions(context)[0] if context.config.training.instructions else ())
