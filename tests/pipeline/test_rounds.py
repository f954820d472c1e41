"""Rounds: the model as trained so far makes the next pairs; a round keeps every promise of a run."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from tempo.cli.main import console as cli_console
from tempo.cli.status import print_status
from tempo.config import load_config, parse_config
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline import stages as pipeline
from tempo.pipeline.rounds import ROUND_STAGES, config_before, earlier_rounds, from_start, round_of
from tempo.pipeline.stages import NAMES, fingerprints, run_stages
from tempo.report.report import report_data

CONFIG = """
[run]
num_workers = 1
rounds = 2
[synthetic]
num_videos = 5
num_held_out = 1
min_shots = 4
max_shots = 5
[frames]
max_pixels = 4096
[captions]
max_new_tokens = 64
[perturbations]
levels = [4, 2]
[responses]
max_new_tokens = 96
[training.baselines]
sft_only = ["sft"]
[[training.phases]]
name = "dpo-2"
objective = "dpo"
levels = [2]
learning_rate = 2e-3
lora_rank = 4
reference = "fixed"
[[training.phases]]
name = "sft"
objective = "sft"
learning_rate = 1e-3
lora_rank = 4
"""

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "rounds.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def finished(config_path, tmp_path_factory):
    """A finished run of two rounds, and what it said."""
    context = Context(load_config(config_path), tmp_path_factory.mktemp("out") / "run")
    console = cli_console()
    console.file, console.width = io.StringIO(), 200
    run_stages(context, console)
    return context, console.file.getvalue()


#: What tells times or versions.
OF_ITS_OWN = ("config.toml", "environment.json", "metrics.jsonl", "report.html", ".lock")


def contents(out):
    """The bytes of all that a run leaves, wherever it lies."""
    left = (path for path in out.rglob("*") if path.is_file() and path.parent.name != "done")
    return {
        str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"")
        for path in left
        if path.name not in OF_ITS_OWN and ".tmp" not in str(path.relative_to(out))
    }


def test_a_round_has_its_own_rows_and_shares_the_videos(finished):
    out = finished[0].directory
    store = RunStore(out / "rounds" / "1")
    assert all(store.is_done(name) for name in ROUND_STAGES)
    for name in (*ROUND_STAGES[:-1], "config"):
        path = out / "rounds" / "1" / f"{name}.{'toml' if name == 'config' else 'jsonl'}"
        assert path.stat().st_size > 0
        assert not path.is_symlink()
    for name in ("videos.jsonl", "clips.jsonl", "frames", "synthetic"):
        link = out / "rounds" / "1" / name
        assert link.resolve() == (out / name).resolve()
        assert not Path(os.readlink(link)).is_absolute()
    assert not (out / "rounds" / "1" / "evaluation.json").exists()


def test_the_second_round_asks_the_model_that_the_first_left(finished):
    out = finished[0].directory
    assert (out / "start").resolve() == (out / "rounds" / "1" / "model").resolve()
    assert not (out / "rounds" / "1" / "start").exists()
    first, second = (RunStore(place).read("pairs", Pair) for place in (out / "rounds" / "1", out))
    assert first
    assert second
    texts = [{(pair.id, pair.chosen, pair.rejected) for pair in pairs} for pairs in (first, second)]
    assert texts[0] != texts[1]


def test_only_the_last_round_has_the_phases_after_dpo(finished):
    out = finished[0].directory
    trained = sorted(str(path.parent.relative_to(out)) for path in out.glob("**/done.json"))
    assert trained == [
        "baselines/sft_only/01-sft",
        "rounds/1/train/01-dpo-2",
        "train/01-dpo-2",
        "train/02-sft",
    ]


def test_training_goes_on_from_the_round_before_and_baselines_from_the_base(finished, tmp_path, monkeypatch):
    """Also the fixed reference is the model that the round begins with."""
    from tempo.training import phases

    for name in ("pairs.jsonl", "videos.jsonl", "frames", "synthetic"):
        (tmp_path / name).symlink_to(finished[0].directory / name)
    begun = {}

    def train(session, phase, start, target):
        begun[str(target.relative_to(tmp_path))] = (str(start), session.context.config.model.path)

    monkeypatch.setattr(phases, "_run_phase", train)
    monkeypatch.setattr(phases, "_copy_model", lambda source, target: None)
    phases.run_training(phases.Session(Context(finished[0].config, tmp_path)))
    start = str(tmp_path / "start")
    assert begun == {
        "train/01-dpo-2": (start, start),
        "train/02-sft": (str(tmp_path / "train" / "01-dpo-2" / "model"), start),
        "baselines/sft_only/01-sft": ("embedded", "embedded"),
    }


def test_the_evaluation_shows_the_model_after_each_round(finished):
    models = json.loads((finished[0].directory / "evaluation.json").read_text())["models"]
    assert list(models) == ["base", "sft_only", "round_1", "tempo"]


def test_the_run_says_which_round_it_is_in(finished):
    context, said = finished
    first, second = (
        f"round 1 of 2: {context.directory / 'rounds' / '1'}",
        f"round 2 of 2: {context.directory}\n",
    )
    assert said.index(first) < said.index("pairs: ") < said.index(second) < said.rindex("pairs: ")


def test_status_shows_every_round(finished):
    console = cli_console()
    console.file, console.width = io.StringIO(), 200
    print_status(finished[0].directory, console)
    text = console.file.getvalue()
    assert text.index("round 1 of 2") < text.index("round 2 of 2")
    assert len(re.findall(r"│ captions +│ done", text)) == 2
    assert len(re.findall(r"│ clips +│ done", text)) == 1
    assert "rounds/1/train/01-dpo-2: step" in text


def test_the_report_says_how_many_rounds_and_where_they_lie(finished):
    context = finished[0]
    pairs = RunStore(context.directory / "rounds" / "1").read("pairs", Pair)
    data = report_data(context)
    assert data["rounds"] == [{"number": "1", "place": "rounds/1", "num_pairs": len(pairs)}]
    assert "rounds/1/train/01-dpo-2" in data["curves"]
    page = (context.directory / "report.html").read_text()
    assert "2 rounds." in page
    assert f"round 1, {len(pairs)} pairs, in <b>rounds/1</b>" in page


def test_a_finished_run_starts_again_and_does_nothing(finished):
    context = finished[0]
    before = {path: path.stat().st_mtime_ns for path in context.directory.rglob("*.jsonl")}
    console = cli_console()
    console.file = io.StringIO()
    run_stages(context, console)
    assert console.file.getvalue() == ""
    assert before == {path: path.stat().st_mtime_ns for path in context.directory.rglob("*.jsonl")}


class Killed(BaseException):
    """Ends a run as nothing in it expects."""


def run_and_kill(context, directory, name, **options):
    """Runs until the stage `name` of this directory has just been begun."""
    begin = RunStore.begin

    def die(store, stage, fingerprint):
        begin(store, stage, fingerprint)
        if (store.directory, stage) == (directory, name):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunStore, "begin", die)
        with pytest.raises(Killed):
            run_stages(context, QUIET, **options)


@pytest.mark.parametrize(("place", "stage"), [("rounds/1", "training"), (".", "captions")])
def test_a_run_that_is_killed_ends_in_the_same_bytes(finished, config_path, tmp_path, place, stage):
    """In the first round, and between the rounds."""
    context = Context(load_config(config_path), tmp_path / "killed")
    run_and_kill(context, context.directory / place, stage)
    assert not (context.directory / place / "model").exists()
    run_stages(context, QUIET)
    expected, found = contents(finished[0].directory), contents(context.directory)
    assert {"model/model.safetensors", "rounds/1/pairs.jsonl", "evaluation.json"} < expected.keys()
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def stale(config_path, *overrides, old=()):
    """Stages that become stale, in the first round and in the last."""
    before, after = (load_config(config_path, list(given)) for given in (old, overrides))
    of_round = [config_before(config) if config.run.rounds > 1 else config for config in (before, after)]
    changed = [
        [name for name in NAMES if fingerprints(a)[name] != fingerprints(b)[name]]
        for a, b in (of_round, (before, after))
    ]
    return tuple(changed[0]), tuple(changed[1])


FROM_CAPTIONS = NAMES[NAMES.index("captions") :]


def test_more_rounds_make_stale_what_a_model_made_and_no_earlier_round(config_path):
    assert stale(config_path, "run.rounds=2", old=["run.rounds=1"])[1] == FROM_CAPTIONS
    three = load_config(config_path, ["run.rounds=3"])
    two = load_config(config_path)
    assert fingerprints(config_before(config_before(three))) == fingerprints(config_before(two))
    assert fingerprints(config_before(three))["captions"] == fingerprints(two)["captions"]


def test_one_round_has_the_fingerprints_of_a_run_without_rounds(config_path):
    """Nothing of it may depend on `run.rounds`: older runs go on."""
    plain = load_config(config_path, ["run.rounds=1"])
    first = config_before(load_config(config_path))
    assert first.run.rounds == 1
    assert [fingerprints(first)[name] for name in NAMES[:8]] == [
        fingerprints(plain)[name] for name in NAMES[:8]
    ]


def test_what_follows_the_last_dpo_phase_and_baselines_make_no_earlier_round_stale(config_path):
    text = config_path.read_text()
    other = config_path.with_name("other.toml")
    other.write_text(text.replace("learning_rate = 1e-3", "learning_rate = 5e-4"))
    assert fingerprints(config_before(load_config(other))) == fingerprints(
        config_before(load_config(config_path))
    )
    first, last = stale(config_path, 'training.baselines={both=["dpo-2"]}')
    assert first == ()
    assert last == NAMES[NAMES.index("training") :]


def test_training_of_an_earlier_round_makes_the_next_pairs_stale(config_path):
    first, last = stale(config_path, "training.max_tokens=9999")
    assert first == NAMES[NAMES.index("training") :]
    assert last == FROM_CAPTIONS


def test_stale_rounds_are_refused_and_made_again_only_when_asked(config_path, tmp_path):
    out = tmp_path / "run"
    context = Context(load_config(config_path, ["run.rounds=3"]), out)
    run_and_kill(context, out / "rounds" / "1", "pairs")
    (out / "rounds" / "2").mkdir()
    before = contents(out)
    fewer = Context(load_config(config_path, ["responses.temperature=0.5"]), out)
    message = r"responses\.temperature.*responses of round 1, pairs of round 1, round 2\. .*--redo"
    with pytest.raises(ValueError, match=message):
        run_stages(fewer, QUIET)
    assert contents(out) == before
    run_and_kill(fewer, out / "rounds" / "1", "responses", redo=True)
    assert not (out / "rounds" / "2").exists()
    assert not (out / "rounds" / "1" / "responses.jsonl").exists()
    assert contents(out)["rounds/1/captions.jsonl"] == before["rounds/1/captions.jsonl"]
    assert contents(out)["clips.jsonl"] == before["clips.jsonl"]


def test_a_stage_alone_is_that_of_the_last_round(finished, config_path, tmp_path):
    run_stages(finished[0], QUIET, only="captions")
    context = Context(load_config(config_path), tmp_path / "alone")
    run_stages(context, QUIET, until="clips")
    assert not (tmp_path / "alone" / "rounds").exists()
    with pytest.raises(ValueError, match="'captions' of the last round needs round 1 first"):
        run_stages(context, QUIET, only="captions")


def test_rounds_are_contexts_of_their_own(config_path, tmp_path):
    """Every process finds the round that it is called to by its number alone."""
    context = Context(load_config(config_path, ["run.rounds=3"]), tmp_path)
    assert [(c.config.run.rounds, c.directory) for c in earlier_rounds(context)] == [
        (1, tmp_path / "rounds" / "1"),
        (2, tmp_path / "rounds" / "2"),
    ]
    assert round_of(context, 3) == context
    second = round_of(context, 2)
    assert from_start(second).config.model.path == str(tmp_path / "rounds" / "2" / "start")
    assert from_start(round_of(context, 1)).config.model.path == "embedded"
    assert [phase.name for phase in second.config.training.phases] == ["dpo-2"]
    assert parse_config(json.loads(second.config.model_dump_json())) == second.config


def test_the_other_processes_train_the_round_that_they_are_called_to(config_path, tmp_path, monkeypatch):
    from tempo.pipeline import steps
    from tempo.training import phases

    calls, trained = iter([1, 2, 0]), []
    monkeypatch.setattr(steps, "call_to_training", lambda device, *, round_number: next(calls))
    monkeypatch.setattr(phases, "run_training", lambda session: trained.append(session.context.directory))
    monkeypatch.setenv("RANK", "1")
    run_stages(Context(load_config(config_path), tmp_path), QUIET)
    assert trained == [tmp_path / "rounds" / "1", tmp_path]


PHASES = 'training.phases=[{name="sft", objective="sft", learning_rate=1e-3}]'


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.rounds=0"], r"run\.rounds: .*greater than or equal to 1"),
        ([PHASES], r"run\.rounds 2 would do nothing: no phase .* objective 'dpo'"),
        (["training.phases=[]", "training.baselines={}"], r"run\.rounds 2 would do nothing: no phase"),
        (['training.baselines={round_1=["sft"]}'], r"baselines\.round_1"),
        (
            ['endpoint={url="http://localhost:1/v1", model="m"}', "captions.repetition_penalty=1.0"],
            r"run\.rounds 2 cannot be used with \[endpoint\]: the server would go on serving",
        ),
    ],
)
def test_rounds_that_would_do_nothing_are_refused(config_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(config_path, overrides)


def test_rounds_with_imported_pairs_are_refused(tmp_path):
    phase = {"name": "dpo", "objective": "dpo", "learning_rate": 1e-3}
    plain = {
        "run": {"rounds": 2},
        "videos": {"paths": [str(tmp_path)]},
        "pairs": {"import_from": "pairs.jsonl"},
        "training": {"phases": [phase]},
    }
    with pytest.raises(
        ValueError, match=r"run\.rounds 2 would do nothing: the pairs come from pairs\.import"
    ):
        parse_config(plain)


def test_the_stages_of_a_round_stand_together_in_the_table():
    """Up to the first of them nothing depends on the model; after the last nothing is done twice."""
    begin, end = (NAMES.index(name) for name in (ROUND_STAGES[0], ROUND_STAGES[-1]))
    between = [stage for stage in pipeline.STAGES[begin : end + 1] if not stage.aside]
    assert [stage.name for stage in between] == list(ROUND_STAGES)
