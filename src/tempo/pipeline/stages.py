"""The table of stages: each stage is declared by one entry here.

To add a stage, write a worker factory (`make_worker(context) -> worker`) in the package it belongs to, or a
function in `steps.py` if the stage cannot work on one record at a time, and add an entry below. Its file, its
subcommand, resume, fingerprints, `tempo status` and `--from` follow from it. A worker is given by its name,
so that `tempo --help` imports no heavy package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import tempo.pipeline.steps as steps
from tempo.config import Config
from tempo.core.records import Captions, Clips, Pair, Perturbations, Record, Responses, Shots, Video
from tempo.engine.pool import Place
from tempo.engine.types import Context, load


@dataclass(frozen=True)
class Stage:
    """The declaration of one stage."""

    name: str  #: The subcommand, and the name of the JSONL file of its rows.
    description: str  #: What the stage does, for `--help`.
    #: The earlier stages it reads, with the types of their rows. The worker gets the first that is not idle.
    reads: tuple[tuple[str, type[Record]], ...] = ()
    writes: type[Record] | None = None  #: The type of its rows; None if it writes only `files`.
    worker: str = ""  #: `module:function` that makes the worker, for a stage that maps records to records.
    function: Callable[[Context, Console], None] | None = None  #: What runs a stage without a worker.
    #: Where the worker runs: in this process, in a pool of processes, or where a model is loaded.
    place: Callable[[Config], Place] = lambda config: "here"
    #: Whether it loads the model of `model.path`.
    needs_model: Callable[[Config], bool] = lambda config: False
    keys: tuple[str, ...] = ()  #: Sections and keys of the configuration that its rows depend on.
    ignored_keys: tuple[str, ...] = ()  #: Keys in these sections that do not affect rows.
    input_files: tuple[str, ...] = ()  #: Keys that name a file whose content its rows depend on.
    checkpoints: tuple[str, ...] = ()  #: Keys that name such a checkpoint.
    #: Raises ValueError, before any work, if something that it needs is missing.
    check: Callable[[Config], object] = lambda config: None
    #: Raises ValueError, right before the stage runs, for earlier rows that later stages cannot use.
    check_before: Callable[[Context], None] = lambda context: None
    files: tuple[str, ...] = ()  #: What it writes into the run directory in addition to its rows.
    idle: Callable[[Config], str] = lambda config: ""  #: The reason to skip the stage; empty if it runs.
    is_shared: bool = True  #: Whether `--from RUN` may take over its rows and files.
    is_auxiliary: bool = False  #: Whether no later stage depends on it; its command takes a run directory.


def _asking(config: Config) -> Place:
    # Requests to a server are sent from this process, which has the API key.
    return "here" if config.endpoint else "model"


def _check_embedder(config: Config) -> None:
    if config.clips.features != "embedded":
        # Without the weights.
        load("tempo.video.clips:load_pretrained")(config.clips.features, "AutoImageProcessor")


def _check_server(config: Config) -> None:
    if config.endpoint:
        load("tempo.model.endpoint:read_api_key")(config.endpoint)


def _check_instructions(config: Config) -> None:
    if path := config.training.instructions:
        load("tempo.training.instructions:read_questions")(Path(path))


def _check_benchmark(config: Config) -> None:
    if path := config.evaluation.benchmark:
        load("tempo.evaluation.benchmark:read_samples")(Path(path))


def _imported(config: Config) -> str:
    return "the pairs come from pairs.import_from" if config.pairs.import_from else ""


def _not_captioned(config: Config) -> str:
    if config.responses.input_form != "captions":
        return f"responses.input_form is {config.responses.input_form!r}"
    return _imported(config)


#: Only the served model and the type of server affect the answers; address and concurrency do not.
_SERVER = ("endpoint.model", "endpoint.server")

STAGES: tuple[Stage, ...] = (
    Stage(
        "synthetic",
        "render the embedded world (only with a [synthetic] section)",
        function=steps.run_synthetic,
        keys=("synthetic",),
        files=("synthetic",),
        idle=lambda config: "" if config.synthetic else "the config has no [synthetic] section",
    ),
    Stage(
        "videos",
        "find video files and identify them by content",
        writes=Video,
        function=steps.run_videos,
        keys=("videos",),
        ignored_keys=("videos.timeout_seconds",),
        check=_check_instructions,
    ),
    Stage(
        "shots",
        "cut videos into shots; fill the frame store",
        reads=(("videos", Video),),
        writes=Shots,
        worker="tempo.video.shots:make_worker",
        place=lambda config: "pool",
        keys=("shots", "frames"),
        check=lambda config: load("tempo.video.detectors:check_detector")(config.shots),
        files=("frames",),
    ),
    Stage(
        "clips",
        "group shots into clips, keep temporally rich videos",
        reads=(("shots", Shots),),
        writes=Clips,
        worker="tempo.video.clips:make_worker",
        place=lambda config: "pool" if config.clips.features == "embedded" else "model",
        keys=("clips", "frames"),
        checkpoints=("clips.features",),
        check=_check_embedder,
        idle=_imported,
    ),
    Stage(
        "captions",
        "let the model caption every clip",
        reads=(("clips", Clips),),
        writes=Captions,
        worker="tempo.preference.captions:make_worker",
        place=_asking,
        needs_model=lambda config: config.endpoint is None,
        keys=("model", *_SERVER, "captions"),
        ignored_keys=("model.device",),
        checkpoints=("model.path",),
        check=_check_server,
        check_before=steps.check_trainable,
        idle=_not_captioned,
    ),
    Stage(
        "perturbations",
        "choose what to drop, shuffle and reverse",
        reads=(("captions", Captions), ("clips", Clips)),
        writes=Perturbations,
        worker="tempo.preference.perturbations:make_worker",
        keys=("perturbations", "responses.input_form"),
        idle=_imported,
    ),
    Stage(
        "responses",
        "let the model answer, clean and perturbed",
        reads=(("perturbations", Perturbations),),
        writes=Responses,
        worker="tempo.preference.responses:make_worker",
        place=_asking,
        needs_model=lambda config: config.endpoint is None,
        keys=("model", *_SERVER, "responses"),
        ignored_keys=("model.device",),
        checkpoints=("model.path",),
        check=_check_server,
        check_before=steps.check_trainable,
        idle=_imported,
    ),
    Stage(
        "pairs",
        "pair chosen with rejected answers, filter",
        reads=(("responses", Responses),),
        writes=Pair,
        function=steps.run_pairs,
        keys=("pairs",),
        input_files=("pairs.import_from",),
        files=("held_out_pairs.jsonl",),
    ),
    Stage(
        "audit",
        "ask how well the pairs can be told apart without the video",
        reads=(("pairs", Pair),),
        function=steps.run_audit,
        needs_model=lambda config: config.audit.max_model_pairs > 0,
        keys=("audit",),
        is_shared=False,
        files=("audit.json",),
        is_auxiliary=True,
    ),
    Stage(
        "training",
        "train the phases in order",
        reads=(("pairs", Pair),),
        function=steps.run_training,
        needs_model=lambda config: bool(config.training.phases),
        keys=("training",),
        ignored_keys=("training.checkpoint_minutes",),
        input_files=("training.instructions",),
        checkpoints=("model.path",),
        check=_check_instructions,
        is_shared=False,
        files=("train", "baselines", "model"),
    ),
    Stage(
        "evaluation",
        "ask every model the benchmark",
        function=steps.run_evaluation,
        needs_model=lambda config: bool(config.synthetic or config.evaluation.benchmark),
        keys=("evaluation",),
        input_files=("evaluation.benchmark",),
        check=_check_benchmark,
        is_shared=False,
        files=("evaluation", "evaluation.json"),
    ),
    Stage(
        "report",
        "write report.html",
        function=steps.run_report,
        keys=("report", "audit"),
        is_shared=False,
        files=("report.html",),
    ),
)

NAMES = tuple(stage.name for stage in STAGES)


def find_stage(name: str) -> Stage:
    """The stage with this name; raises ValueError for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"there is no stage {name!r}; the stages are {', '.join(NAMES)}")
    return STAGES[NAMES.index(name)]


def select_stages(config: Config, *, until: str = "", only: str = "") -> tuple[Stage, ...]:
    """The stages that a configuration needs, in order, up to `until`, or `only` one.

    Raises ValueError for an unknown name, and for an idle stage in `only`.
    """
    if only and (reason := find_stage(only).idle(config)):
        raise ValueError(f"stage {only!r} has nothing to do: {reason}")
    if only:
        return (find_stage(only),)
    last = STAGES.index(find_stage(until or NAMES[-1]))
    return tuple(stage for stage in STAGES[: last + 1] if not stage.idle(config))
