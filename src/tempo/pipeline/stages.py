"""The table of stages: one entry declares everything about a stage.

To add a stage, write a worker factory (`make_worker(context) -> worker`) in the package it belongs to, or a
function in `steps.py` if the stage cannot work on one record at a time, and add an entry below. Its file, its
subcommand, resuming, fingerprints, `tempo status` and `--from` then work without further code. Functions in
heavy packages are given by name, so that `tempo --help` does not import these packages.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rich.console import Console

import tempo.pipeline.steps as steps
from tempo import __version__
from tempo.config import Config
from tempo.core.hashing import hash_checkpoint, hash_file, hash_text
from tempo.core.records import Captions, Clips, Pair, Perturbations, Record, Responses, Shots, Video
from tempo.core.store import RunStore
from tempo.engine.pool import Place
from tempo.engine.types import Context
from tempo.model.loading import EMBEDDED, embedded_path


@dataclass(frozen=True)
class Stage:
    """The declaration of one stage."""

    name: str  #: The name of its subcommand and of the JSONL file with its rows.
    description: str  #: What the stage does, for `--help`.
    #: The earlier stages it reads, with their row types. The worker gets the first one that is not idle.
    reads: tuple[tuple[str, type[Record]], ...] = ()
    writes: type[Record] | None = None  #: The type of its rows; None if it writes only `files`.
    worker: str = ""  #: `module:function` that creates the worker, if the stage maps records to records.
    function: Callable[[Context, Console], None] | None = None  #: Runs the stage if it has no worker.
    #: Where the worker runs: in this process, in a pool of processes, or where a model is loaded.
    place: Callable[[Config], Place] = lambda config: "here"
    needs_model: Callable[[Config], bool] = lambda config: False  #: Whether it loads `model.path`.
    keys: tuple[str, ...] = ()  #: Sections and keys of the configuration that its rows depend on.
    ignored_keys: tuple[str, ...] = ()  #: Keys in these sections that do not affect its rows.
    input_files: tuple[str, ...] = ()  #: Keys that name a file whose content its rows depend on.
    #: What its rows depend on in the run directory besides the rows of earlier stages; empty if on nothing.
    depends_on: Callable[[RunStore], list[str]] = lambda store: []
    checkpoints: tuple[str, ...] = ()  #: Keys that name a checkpoint whose content its rows depend on.
    #: Raises ValueError before any work if something that the stage needs is missing.
    check: Callable[[Config], object] = lambda config: None
    #: Raises ValueError right before the stage runs, if later stages could not use the rows so far.
    check_before: Callable[[Context], None] = lambda context: None
    files: tuple[str, ...] = ()  #: Files and folders in the run directory that it writes besides its rows.
    idle: Callable[[Config], str] = lambda config: ""  #: The reason to skip the stage; empty if it runs.
    is_shared: bool = True  #: Whether `--from RUN` may reuse its rows and files.
    is_auxiliary: bool = False  #: Whether no later stage depends on it; its command takes a run directory.


def _answering_place(config: Config) -> Place:
    # Requests to a server are sent from this process, which has the API key.
    return "here" if config.endpoint else "model"


def _check_server(config: Config) -> None:
    if config.endpoint:
        resolve_name("tempo.model.endpoint:read_api_key")(config.endpoint)


def _check_file(key: str, function: str) -> Callable[[Config], None]:
    def check(config: Config) -> None:
        if path := look_up(config, key):
            resolve_name(function)(Path(path), max_bad_share=config.run.max_bad_share)

    return check


def _imported(config: Config) -> str:
    return "the pairs come from pairs.import_from" if config.pairs.import_from else ""


def _not_captioned(config: Config) -> str:
    form = config.responses.input_form
    needs_captions = form == "captions" or config.pairs.verify
    return _imported(config) or ("" if needs_captions else f"responses.input_form is {form!r}")


def _compares_models(config: Config) -> bool:
    settings = config.evaluation
    return bool(config.synthetic or settings.held_out_share or settings.benchmark or settings.benchmarks)


#: Only the model and the type of server affect the answers; address and concurrency do not.
_SERVER = ("endpoint.model", "endpoint.server")

STAGES: tuple[Stage, ...] = (
    Stage(
        "synthetic",
        "render the synthetic world (only with a [synthetic] section)",
        function=steps.run_synthetic,
        keys=("synthetic",),
        files=("synthetic",),
        idle=lambda config: "" if config.synthetic else "the config has no [synthetic] section",
    ),
    Stage(
        "videos",
        "find video files and identify them by their content",
        writes=Video,
        function=steps.run_videos,
        keys=("videos",),
        ignored_keys=("videos.timeout_seconds",),
    ),
    Stage(
        "shots",
        "split videos into shots; store the frames for the model",
        reads=(("videos", Video),),
        writes=Shots,
        worker="tempo.video.shots:make_worker",
        place=lambda config: "pool",
        keys=("shots", "frames"),
        check=lambda config: resolve_name("tempo.video.detectors:check_detector")(config.shots),
        files=("frames",),
    ),
    Stage(
        "clips",
        "divide videos into clips; skip videos with too few events",
        reads=(("shots", Shots),),
        writes=Clips,
        worker="tempo.video.clips:make_worker",
        place=lambda config: "pool" if config.clips.features == EMBEDDED else "model",
        keys=("clips", "frames"),
        checkpoints=("clips.features",),
        # Without the weights.
        check=lambda config: (
            config.clips.features == EMBEDDED
            or resolve_name("tempo.video.clips:load_pretrained")(config.clips.features, "AutoImageProcessor")
        ),
        idle=_imported,
    ),
    Stage(
        "captions",
        "let the model caption every clip",
        reads=(("clips", Clips),),
        writes=Captions,
        worker="tempo.preference.captions:make_worker",
        place=_answering_place,
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
        "choose which clips to drop, replace or reorder",
        reads=(("captions", Captions), ("clips", Clips)),
        writes=Perturbations,
        worker="tempo.preference.perturbations:make_worker",
        keys=("perturbations", "responses.input_form"),
        idle=_imported,
    ),
    Stage(
        "responses",
        "let the model describe the original and the perturbed videos",
        reads=(("perturbations", Perturbations),),
        writes=Responses,
        worker="tempo.preference.responses:make_worker",
        place=_answering_place,
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
        "pair chosen with rejected responses; filter the pairs",
        reads=(("responses", Responses),),
        writes=Pair,
        function=steps.run_pairs,
        keys=("pairs", "evaluation.held_out_share"),
        input_files=("pairs.import_from",),
        # A pair that is reviewed and kept changes nothing.
        depends_on=lambda store: sorted(
            f"{row.id} {row.texts}" for row in store.reviews().values() if row.decision == "reject"
        ),
        check=_check_file("pairs.import_from", "tempo.preference.importing:load_pairs"),
        files=("held_out_pairs.jsonl", "rejected_pairs.jsonl"),
    ),
    Stage(
        "audit",
        "measure how well chosen answers can be picked without the video",
        reads=(("pairs", Pair),),
        function=steps.run_audit,
        needs_model=lambda config: config.audit.max_model_pairs > 0,
        keys=("audit",),
        is_shared=False,
        files=("audit.json", "audit_pairs.json"),
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
        check=_check_file("training.instructions", "tempo.training.instructions:read_questions"),
        is_shared=False,
        files=("train", "baselines", "model", "adapter", "trackers"),
    ),
    Stage(
        "evaluation",
        "compare the models on held-out videos and on the benchmark",
        reads=(("pairs", Pair),),
        function=steps.run_evaluation,
        needs_model=_compares_models,
        keys=("evaluation",),
        input_files=("evaluation.benchmark",),
        check=lambda config: resolve_name("tempo.evaluation.run:check_benchmarks")(config),
        is_shared=False,
        files=("evaluation", "evaluation.json"),
    ),
    Stage(
        "report",
        "write report.html and the model cards",
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
        raise ValueError(f"there is no stage {name!r}. The stages are {', '.join(NAMES)}")
    return STAGES[NAMES.index(name)]


def select_stages(config: Config, *, until: str = "", only: str = "") -> tuple[Stage, ...]:
    """The stages that a configuration needs, in order, up to `until`; or just the stage `only`.

    Raises ValueError for an unknown name, or if the stage `only` is idle.
    """
    if not only:
        last = STAGES.index(find_stage(until or NAMES[-1]))
        return tuple(stage for stage in STAGES[: last + 1] if not stage.idle(config))
    if reason := find_stage(only).idle(config):
        raise ValueError(f"stage {only!r} does not run with this configuration: {reason}")
    return (find_stage(only),)


def fingerprints(config: Config, directory: Path | None = None) -> dict[str, str]:
    """For each stage 16 hex digits: a hash of its keys, its input files, the seed, and the earlier stages.

    For a run in `directory`, also of the reviews of its pairs.
    """
    chained = str(config.run.seed)
    result = {}
    for stage in STAGES:
        values = [_plain_value(config, key, stage) for key in stage.keys]
        inputs = [_hash_input(config, key) for key in (*stage.input_files, *stage.checkpoints)]
        inputs += stage.depends_on(RunStore(directory)) if directory else []
        result[stage.name] = hash_text(json.dumps([chained, stage.name, values, inputs], sort_keys=True))
        chained = chained if stage.is_auxiliary else result[stage.name]
    return result


def versions() -> dict[str, str]:
    """The versions of the packages whose code produces the rows."""
    return {"tempo": __version__, "transformers": version("transformers")}


def look_up(config: Config, key: str) -> Any:
    """The value of `section.key`, or a whole section; None for a key of a missing section."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _plain_value(config: Config, key: str, stage: Stage) -> Any:
    value = look_up(config, key)
    ignored = {name.partition(".")[2] for name in stage.ignored_keys if name.startswith(f"{key}.")}
    return value.model_dump(mode="json", exclude=ignored) if hasattr(value, "model_dump") else value


def _hash_input(config: Config, key: str) -> str:
    """A hash of the file or checkpoint that `key` names; empty for a missing file or a hub name."""
    value = look_up(config, key)
    if not value or (key, value) == ("clips.features", EMBEDDED):
        return ""
    path = embedded_path() if value == EMBEDDED else Path(value).expanduser()
    try:
        return hash_checkpoint(path) if path.is_dir() else hash_file(path)
    except OSError:
        # `run` checks before any work that files exist; other commands must work without them.
        return ""
