"""The whole method on a few small stories: the files it writes, restarts and kills."""

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from sample_material import SMALL_RUN

from tempo.config import load_config, parse_config
from tempo.core.records import Pair, Perturbations, Skipped, Video
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.loading import embedded_path
from tempo.pipeline.runner import run, run_stages
from tempo.pipeline.stages import NAMES

PHASES = """
[training.baselines]
sft_only = ["sft"]
[[training.phases]]
name = "dpo-4"
objective = "dpo"
levels = [8, 4]
learning_rate = 1e-3
lora_rank = 4
[[training.phases]]
name = "dpo-2"
objective = "dpo"
levels = [2]
learning_rate = 1e-3
lora_rank = 4
[[training.phases]]
name = "sft"
objective = "sft"
learning_rate = 1e-3
lora_rank = 4
"""

QUIET = Console(quiet=True)

#: Set by `make soak`; test_kills_change_nothing is the short form.
SOAK_KILLS = int(os.environ.get("TEMPO_SOAK_KILLS", "0"))


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(SMALL_RUN + PHASES)
    return path


@pytest.fixture(scope="module")
def finished(config_path, tmp_path_factory):
    """A finished run."""
    context = Context(load_config(config_path), tmp_path_factory.mktemp("out") / "run")
    run_stages(context, QUIET)
    return context


DATA = ("videos.jsonl", "shots.jsonl", "clips.jsonl", "captions.jsonl", "responses.jsonl", "pairs.jsonl")


def test_every_stage_is_done_and_writes_its_files(finished):
    store = RunStore(finished.directory)
    assert all(store.is_done(name) for name in NAMES)
    for name in ("config.toml", "environment.json", "evaluation.json", "report.html", "skipped.jsonl"):
        assert (finished.directory / name).stat().st_size > 0
    pair = json.loads((finished.directory / "pairs.jsonl").read_text().splitlines()[0])
    names = {"video_id", "video", "prompt", "chosen", "rejected", "kind", "level", "order", "num_clips"}
    assert names <= pair.keys()
    skipped = json.loads((finished.directory / "skipped.jsonl").read_text().splitlines()[0])
    assert skipped.keys() == {"stage", "id", "reason", "detail", "is_only_reason"}


def test_every_video_has_pairs_or_a_reason_and_no_pair_is_in_the_original_order(finished):
    store = RunStore(finished.directory)
    pairs = [*store.read("pairs", Pair), *store.read("held_out_pairs", Pair)]
    videos = {video.id for video in store.read("videos", Video)}
    assert len(videos) == 7
    skipped = {row.id.split("/")[0] for row in store.read("skipped", Skipped)}
    assert videos <= skipped | {pair.video_id for pair in pairs}
    assert pairs
    assert all(pair.order != tuple(range(pair.num_clips)) for pair in pairs)
    for row in store.read("perturbations", Perturbations):
        orders = [(made.kind, made.order) for made in row.perturbations]
        assert len(set(orders)) == len(orders)


def test_the_result_of_a_run_has_its_stages_report_and_accuracies(finished):
    result = run(finished.config, finished.directory)
    assert (result.stages, result.report) == (NAMES, finished.directory / "report.html")
    assert {figure.source for figure in result.figures} == {"held-out videos", "benchmark"}
    assert all(list(figure.values) == ["base", "sft_only", "tempo"] for figure in result.figures)
    assert {"temporal questions", "event order"} < {figure.name for figure in result.figures}


def test_a_tracker_that_is_added_later_gets_the_whole_training_and_the_tables(finished, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.copytree(finished.directory, tmp_path / "run")
    for name in ("training", "evaluation", "report"):
        (tmp_path / "run" / "done" / f"{name}.json").unlink()
    config = finished.config.model_dump() | {"run": {"trackers": ["tensorboard"]}}
    run_stages(Context(parse_config(config), tmp_path / "run"), QUIET)
    (events,) = (tmp_path / "run" / "trackers" / "tensorboard").iterdir()
    found = EventAccumulator(str(events))
    found.Reload()
    phases = ("01-dpo-4", "02-dpo-2", "03-sft", "sft_only/01-sft")
    steps = [event.step for phase in phases for event in found.Scalars(f"{phase}/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert {"held-out videos/text_summary", "benchmark/text_summary"} <= {*found.Tags()["tensors"]}


def test_a_finished_run_starts_again_and_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.directory.rglob("*.safetensors")}
    start = time.perf_counter()
    run_stages(finished, QUIET)
    assert time.perf_counter() - start < 5
    assert before == {path: path.stat().st_mtime_ns for path in finished.directory.rglob("*.safetensors")}


#: Files with times, versions, or settings that change no result.
IGNORED = ("config.toml", "environment.json", "metrics.jsonl", "report.html", ".lock")


def contents(out):
    """The bytes of all files of a run, without its path; also of those that it should have removed."""
    left = (path for path in out.rglob("*") if path.is_file() and path.parent.name != "done")
    return {
        str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"")
        for path in left
        if path.name not in IGNORED
    }


@pytest.fixture(scope="module")
def paired(config_path, tmp_path_factory):
    """A run of the same up to its pairs, with two workers instead of one."""
    out = tmp_path_factory.mktemp("out") / "paired"
    context = Context(load_config(config_path, ["run.num_workers=2"]), out)
    run_stages(context, QUIET, until="pairs")
    return context


def test_another_run_of_the_same_config_gives_the_same_bytes(finished, paired):
    found, whole = contents(paired.directory), contents(finished.directory)
    assert {f"{name}.jsonl" for name in NAMES[1:8]} | {"skipped.jsonl"} <= found.keys()
    assert {"synthetic", "frames"} <= {Path(name).parts[0] for name in found}
    assert found.keys() <= whole.keys()
    assert [name for name in found if found[name] != whole[name]] == []


@pytest.mark.parametrize(
    ("override", "taken"),
    [
        ("report.num_pairs=2", NAMES[:8]),
        ("responses.temperature=0.5", NAMES[:6]),
        (f"model.path={embedded_path()}", NAMES[:4]),
        ("run.seed=1", ()),
    ],
)
def test_what_another_run_made_under_the_same_settings_is_taken_over(
    paired, config_path, tmp_path, override, taken
):
    stages = [f"{name}.jsonl" for name in taken]
    source = paired.directory
    console = Console(file=io.StringIO(), width=300)
    config = load_config(config_path, [override])
    context = Context(config, tmp_path / "run")
    run_stages(context, console, until=taken[-1] if taken else "synthetic", source=source)
    line = f"reused from {source}: {', '.join(taken) or 'nothing'}"
    assert line in console.file.getvalue()
    found, expected = contents(context.directory), contents(source)
    assert {name for name in found if name in DATA} == {name for name in stages if name in DATA}
    assert not taken or [name for name in stages if name in found and found[name] != expected[name]] == []
    # Nothing refers to the source, which may be deleted.
    assert str(source) not in "".join(path.read_text() for path in context.directory.glob("*.jsonl"))
    assert not any(path.is_symlink() for path in context.directory.rglob("*"))


def start_run(config_path, out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "tempo", "run", config_path, "--out", out, "--until", "pairs", *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts tests in the background with Ctrl-C ignored, which child processes inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_with_kills(config_path, out, rng, *more, num_kills, longest_seconds):
    """Starts a run again after each of at most `num_kills` kills at random moments; returns their number."""
    kills = 0
    while True:
        process = start_run(config_path, out, *more)
        try:
            process.wait(timeout=rng.uniform(1.0, longest_seconds) if kills < num_kills else 600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, process.stderr.read()
        return kills


def test_kills_change_nothing(paired, config_path, tmp_path):
    """SIGKILL at random moments of the data stages; in the end the same bytes."""
    out = tmp_path / "killed"
    # An undisturbed run takes about ten seconds, of which starting takes one.
    kills = run_with_kills(config_path, out, random.Random(0), num_kills=6, longest_seconds=5.0)
    assert kills >= 2
    found, expected = contents(out), contents(paired.directory)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_a_run_that_met_a_full_disk_resumes_to_the_same_bytes(paired, tmp_path):
    """The file system refuses the second half of the responses, in the middle of a row."""
    context = Context(paired.config, tmp_path / "full")
    run_stages(context, QUIET, until="perturbations", source=paired.directory)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    half = (paired.directory / "responses.jsonl").stat().st_size // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (half, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run_stages(context, QUIET, until="pairs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (context.directory / "responses.jsonl").stat().st_size == half
    run_stages(context, QUIET, until="pairs")
    assert contents(context.directory) == contents(paired.directory)


@pytest.mark.skipif(not SOAK_KILLS, reason="takes minutes: `make soak`")
def test_many_kills_over_all_stages_change_nothing(finished, config_path, tmp_path):
    """TEMPO_SOAK_KILLS kills over as many runs as that takes, in the middle of training too."""
    begun, ended = (finished.directory / name for name in ("config.toml", "report.html"))
    # Half the duration of a whole run, so that each is killed several times and still makes progress.
    longest = 5 + (ended.stat().st_mtime - begun.stat().st_mtime) / 2
    expected, rng, kills = contents(finished.directory), random.Random(1), 0
    assert {"model/model.safetensors", "evaluation.json", "pairs.jsonl"} < expected.keys()
    while kills < SOAK_KILLS:
        out = tmp_path / f"killed {kills}"
        more = ("--until", "report", "--set", "training.checkpoint_minutes=0.02")
        left = SOAK_KILLS - kills
        kills += run_with_kills(config_path, out, rng, *more, num_kills=left, longest_seconds=longest)
        found = contents(out)
        assert found.keys() == expected.keys()
        # The model cards name the setting that differs, training.checkpoint_minutes.
        names = [name for name in found if not name.endswith("README.md")]
        assert [name for name in names if found[name] != expected[name]] == []
        print(f"{kills} kills, the same bytes")
        shutil.rmtree(out)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_ends_within_seconds_and_prints_how_to_resume(config_path, tmp_path, how, code):
    out = tmp_path / "stopped"
    # Making so many videos takes minutes.
    more = ("--until", "synthetic", "--set", "synthetic.num_videos=600")
    process = start_run(config_path, out, *more)
    # Not before the pool works: a process that is just being started would complain that its parent is gone.
    while not list(out.glob("synthetic/videos/*.mp4")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, how)
    start = time.perf_counter()
    _, error = process.communicate(timeout=60)
    assert time.perf_counter() - start < 30
    assert process.returncode == code
    assert "run the same command again to resume" in error
    assert "Traceback" not in error
