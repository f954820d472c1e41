"""How each stage is run: mapped over rows, or in one piece. Heavy modules are imported inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from tempo.config import Config
from tempo.core.progress import Counter, Counters
from tempo.core.records import Captions, Clips, Record, Shots, Skipped, Video
from tempo.core.store import SKIPPED, RunStore, write_json, write_lines
from tempo.engine import pool as engine
from tempo.engine.ranks import call_to_training
from tempo.engine.types import Context

#: Videos that one worker call takes together outside a pool: a model draws their answers in batches.
BATCH_VIDEOS = 8


@dataclass(frozen=True)
class MapStep:
    """Maps the rows of `reads` through the worker, and writes what comes as it comes.

    Stages that hold a model, or cost nothing (`here`), take several videos at a time.
    """

    worker: str
    reads: str
    reads_record: type[Record]
    place: engine.Place

    def __call__(self, context: Context, store: RunStore, console: Console) -> None:
        """Does what is left of the stage."""
        name = self.worker.split(":")[0].rpartition(".")[2]
        rows = store.read(self.reads, self.reads_record)
        handled = store.handled_ids(name)
        size = 1 if self.place == "pool" else _videos_together(context.config)
        # Batches are cut before the handled ones are left out: a resumed batch holds the same records as
        # the first time, so the model computes the same numbers.
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        left = [batch for batch in batches if any(row.id not in handled for row in batch)]
        counter = Counter(console, name, len(rows), done=len(rows) - sum(map(len, left)))
        with counter.live():
            for result in engine.map_batches(self.worker, context, left, place=self.place, stage=name):
                write_result(store, name, [row for row in result if row.id not in handled])
                counter.advance(len(result))


def _videos_together(config: Config) -> int:
    """Videos that one worker call takes: as many as keep a server busy, at three requests each or more."""
    return max(BATCH_VIDEOS, config.endpoint.concurrency // 2 if config.endpoint else 0)


def answered(worker: str, reads: str, reads_record: type[Record]) -> Callable[..., None]:
    """The stage of a worker whose answers a model draws; a server is asked from here, where its key is.

    Before that, videos that training would refuse for their length are refused, and instructions that it
    would refuse for their videos.
    """

    def run(context: Context, store: RunStore, console: Console) -> None:
        if context.config.training.phases:
            from tempo.training.instructions import check_videos
            from tempo.training.longest import check_longest

            check_videos(context)
            check_longest(context)
        place: engine.Place = "here" if context.config.endpoint else "model"
        MapStep(worker, reads, reads_record, place)(context, store, console)

    return run


def write_result(store: RunStore, name: str, rows: Sequence[Record]) -> None:
    """Appends records to the stage's file and drops to the common one."""
    store.append(name, [row for row in rows if not isinstance(row, Skipped)])
    store.append(SKIPPED, [row for row in rows if isinstance(row, Skipped)])


def run_synthetic(context: Context, store: RunStore, console: Console) -> None:
    """Renders the embedded world into `synthetic/`."""
    from tempo.synthetic.dataset import make_dataset

    settings = context.config.synthetic
    assert settings is not None
    with Counter(console, "synthetic", settings.num_videos + 2 * settings.num_held_out).live() as counter:
        make_dataset(
            settings,
            context.directory / "synthetic",
            seed=context.config.run.seed,
            num_workers=engine.count_workers(context.config.run.num_workers),
            progress=counter.advance,
        )


def run_videos(context: Context, store: RunStore, console: Console) -> None:
    """Identifies every file; of two with the same content the first path stays, the other is dropped.

    Raises ValueError that names an instruction about a video that the run does not have.
    """
    from tempo.training.instructions import check_videos
    from tempo.video.videos import VideoFile

    batches = [[VideoFile(id=path)] for path in _new_files(context, store)]
    worker = "tempo.video.videos:make_worker"
    with Counter(console, "videos", len(batches)).live() as counter:
        for result in engine.map_batches(worker, context, batches, place="pool", stage="videos"):
            write_result(store, "videos", result)
            counter.advance()
    _drop_duplicates(store)
    check_videos(context)


def _new_files(context: Context, store: RunStore) -> list[str]:
    """The files in `videos.paths` with neither a row nor a drop; raises ValueError if there are no files."""
    from tempo.video.videos import find_videos

    paths = context.config.videos.paths or (str(context.directory / "synthetic" / "videos"),)
    files = [str(path) for path in find_videos(paths, context.config.videos.extensions)]
    handled = {row.path for row in store.read("videos", Video)} | store.handled_ids("videos")
    return [path for path in files if path not in handled]


def tell_new_files(context: Context, console: Console) -> None:
    """Says which files came into the folders after the videos of the run were settled: it goes on without."""
    store = RunStore(context.directory)
    if not context.config.videos.paths or not store.is_done("videos"):
        return
    try:
        new = _new_files(context, store)
    except ValueError:
        # The folders are empty by now; what is left may need no video.
        return
    if new:
        console.print(
            f"videos: new in videos.paths, and not part of this run: {len(new)} (such as {new[0]}); give "
            "another --out for a run with them"
        )


def _drop_duplicates(store: RunStore) -> None:
    same: dict[str, list[Video]] = {}
    for video in sorted(store.read("videos", Video), key=lambda video: video.path):
        same.setdefault(video.id, []).append(video)
    kept: list[Video] = []
    twice: list[Skipped] = []
    for first, *others in same.values():
        detail = f"same content as {first.path}"
        twice += [Skipped(stage="videos", id=v.path, reason="duplicate", detail=detail) for v in others]
        # After a kill, those that were dropped before are known by the row alone.
        copies = {v.path for v in others}.union(*(v.copies for v in (first, *others)))
        kept.append(first.model_copy(update={"copies": tuple(sorted(copies))}))
    known = store.handled_ids("videos")
    store.append(SKIPPED, [drop for drop in twice if drop.id not in known])
    write_lines(store.path("videos"), (video.model_dump_json() for video in kept))


def run_clips(context: Context, store: RunStore, console: Console) -> None:
    """Makes clips in the pool, or in one process where a model compares the shots."""
    place: engine.Place = "pool" if context.config.clips.features == "embedded" else "model"
    MapStep("tempo.video.clips:make_worker", "shots", Shots, place)(context, store, console)


def run_perturbations(context: Context, store: RunStore, console: Console) -> None:
    """Perturbs the captioned videos, or all that have clips where nothing is captioned."""
    of_captions = context.config.responses.input_form == "captions"
    reads, record = ("captions", Captions) if of_captions else ("clips", Clips)
    worker = "tempo.preference.perturbations:make_worker"
    MapStep(worker, reads, record, "here")(context, store, console)


def run_pairs(context: Context, store: RunStore, console: Console) -> None:
    """Makes all pairs in one piece; those of held-out videos go to a file of their own."""
    from tempo.preference.importing import import_pairs
    from tempo.preference.pairs import HELD_OUT, make_pairs

    made = import_pairs(context) if context.config.pairs.import_from else make_pairs(context)
    known = store.handled_ids("pairs")
    store.append(SKIPPED, [drop for drop in made.drops if drop.id not in known])
    write_lines(store.path("pairs"), (pair.model_dump_json() for pair in made.pairs))
    held_out = ""
    if context.config.pairs.held_out_share:
        write_lines(store.path(HELD_OUT), (pair.model_dump_json() for pair in made.held_out))
        held_out = f"{len(made.held_out)} held out, "
    console.print(f"pairs: {len(made.pairs)} kept, {held_out}{len(made.drops)} filtered out")


def run_audit(context: Context, store: RunStore, console: Console) -> None:
    """Asks how well the pairs can be told apart without the video; writes `audit.json`."""
    from tempo.preference.audit import audit_pairs, read_pairs

    config = context.config
    pairs = read_pairs(context.directory)
    with Counters(console) as counters:
        audit = audit_pairs(
            pairs,
            config.audit,
            seed=config.run.seed,
            model=config.model,
            progress=lambda done, total: counters.show("audit by the model", done, total),
        )
    write_json(context.directory / "audit.json", audit)
    console.print(f"audit: {audit['verdict']}")


def run_training(context: Context, store: RunStore, console: Console) -> None:
    """Trains every phase that is not done."""
    from tempo.training.phases import Session
    from tempo.training.phases import run_training as train

    call_to_training(context.config.model.device, is_needed=True)
    with Counters(console) as counters:
        train(
            Session(
                context,
                lambda phase, step, steps, row: counters.show(phase, step, steps, _figures(row)),
                console.print,
            )
        )


def join_training(context: Context) -> None:
    """What every process but the first does: trains along whenever it is called."""
    from tempo.training.phases import Session
    from tempo.training.phases import run_training as train

    while call_to_training(context.config.model.device, is_needed=False):
        train(Session(context))


def _figures(row: dict[str, float]) -> str:
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return " ".join(f"{short} {row[name]:.3f}" for name, short in names.items() if name in row)


def run_evaluation(context: Context, store: RunStore, console: Console) -> None:
    """Asks every model the benchmark; the table is printed when the run ends."""
    from tempo.evaluation.evaluate import run_evaluation as evaluate

    with Counters(console) as counters:
        evaluate(context, lambda model, done, total: counters.show(f"evaluation of {model}", done, total))


def run_report(context: Context, store: RunStore, console: Console) -> None:
    """Writes the page."""
    from tempo.report.report import write_report

    console.print(f"report: {write_report(context)}")
