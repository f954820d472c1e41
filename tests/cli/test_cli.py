"""The command line: quick help, and bad input is one message that overwrites nothing."""

from __future__ import annotations

import errno
import json
import shlex
import signal
import tomllib

import pytest
import tomli_w
from tiny_film import film

from tempo import __version__
from tempo.cli.terminal import terminable
from tempo.config import load_config, parse_config
from tempo.core.records import Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.pipeline import runner
from tempo.pipeline.stages import NAMES


@pytest.fixture
def write(tmp_path, films):
    """A function that writes a configuration for the films with these sections and returns its path."""

    def config(name="tempo.toml", **sections):
        path = tmp_path / name
        data = {"run": {"num_workers": 1}, "videos": {"paths": [str(films)]}, **sections}
        path.write_text(tomli_w.dumps(data))
        return path

    return config


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def assert_refused(result, *words):
    """Exit code 2 and one message on stderr that has these words, and no traceback."""
    code, out, err = result
    assert code == 2
    assert "Traceback" not in out + err
    assert out == ""
    assert err.strip()
    for word in words:
        assert word.lower() in err.lower()


def test_help_names_every_command_and_stage(tempo):
    code, out, _ = tempo("--help")
    assert code == 0
    # rich would read brackets as markup.
    assert "[synthetic]" in out
    for name in ("run", "status", "init", *NAMES):
        assert f" {name} " in out
    assert tempo("--version") == (0, f"tempo {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("dance", ["dance"]),
        ("run {config}", ["--out"]),
        ("run {config} --out {out} --loud", ["--loud"]),
        ("run {config} --out {out} --set frames.fps", ["--set", "frames.fps", "section.key=value"]),
        ("run {config} --out {out} --set frames.fps=no", ["frames.fps", "'no'"]),
        ("run {config} --out {out} --set frame.fps=2", ["frame", "unknown key", "'frames'"]),
        ("run {config} --out {out} --set videos.paths=['/nowhere']", ["videos.paths", "/nowhere"]),
        ("run {config} --out {out} --until vidoes --redo", ["'vidoes'", *NAMES]),
        ("run {config} --out {config}", ["tempo.toml cannot be used as a run directory"]),
        ("run missing.toml --out {out}", ["missing.toml", "tempo init"]),
        ("run {films}/notes.txt --out {out}", ["notes.txt", "TOML"]),
        ("clips {config} --out {tmp}/new", ["'clips' needs 'videos' first"]),
        ("synthetic {config} --out {out}", ["[synthetic]"]),
        ("status {tmp}/nowhere", ["nowhere is not a run directory"]),
        ("audit {films}", ["films is not a run directory"]),
        ("status {films}", ["films is not a run directory", "config.toml"]),
        ("export {films} --format trl --out {out}", ["films is not a run directory"]),
        ("init {tmp}/nowhere --out {out}.toml", ["nowhere' does not exist"]),
        ("init {films} --out {config}", ["tempo.toml already exists"]),
        ("init {films} --out {out}.toml --model /no/such/model", ["model.path", "/no/such/model"]),
        ("init {tmp}/empty --out {out}.toml", ["no video in", "empty", ".mp4"]),
    ],
)
def test_bad_argument_is_refused_and_nothing_is_overwritten(tempo, write, tmp_path, films, arguments, words):
    store = RunStore(tmp_path / "out")
    store.begin("videos", "another fingerprint")
    store.append(SKIPPED, [Skipped(id="a", stage="videos", reason="cannot be opened")])
    (tmp_path / "empty").mkdir()
    names = {"config": write(), "out": tmp_path / "out", "films": films, "tmp": tmp_path}
    before = tree(tmp_path)
    assert_refused(tempo(*arguments.format(**names).split()), *words)
    (tmp_path / "out" / ".lock").unlink(missing_ok=True)
    new = {"new", "new/.lock", "new/config.toml", "new/environment.json"}
    assert {name: data for name, data in tree(tmp_path).items() if name not in new} == before


def test_directory_in_use_is_refused(tempo, write, tmp_path):
    with RunStore(tmp_path / "out").lock():
        assert_refused(tempo("videos", write(), "--out", tmp_path / "out"), "in use", str(tmp_path / "out"))


def test_run_until_videos_keeps_the_videos_and_names_the_reason_for_the_rest(tempo, write, tmp_path, films):
    config, out = write(), tmp_path / "out"
    code, shown, _ = tempo("run", config, "--out", out, "--until", "videos")
    assert code == 0
    assert f"tempo status {out}" in shown
    store = RunStore(out)
    assert {row.path for row in store.read("videos", Video)} == {str(films / "a.mp4"), str(films / "b.mp4")}
    reasons = {row.id: row.reason for row in store.read(SKIPPED, Skipped)}
    assert reasons.keys() == {str(films / "broken.mp4"), str(films / "copy of a.mp4")}
    assert reasons[str(films / "copy of a.mp4")] == "duplicate"
    assert load_config(out / "config.toml") == load_config(config)
    assert json.loads((out / "environment.json").read_text())["python"]
    assert "duplicate" in tempo("status", out)[1]

    # The stage alone changes nothing; other settings are refused without --redo.
    before = tree(out)
    assert tempo("videos", config, "--out", out)[0] == 0
    for override, key in (("run.seed=1", "seed"), ('videos.extensions=["mp4"]', "videos.extensions")):
        refused = tempo("run", config, "--out", out, "--until", "videos", "--set", override)
        assert_refused(refused, str(out), "other settings", key, "--redo")
    assert tree(out) == before
    code, shown, _ = tempo("videos", config, "--out", out, "--set", "run.seed=1", "--redo")
    assert code == 0
    assert "videos: discarded" in shown
    assert tomllib.loads((out / "config.toml").read_text())["run"]["seed"] == 1
    assert len(store.read("videos", Video)) == 2


def test_a_new_file_after_the_videos_are_done_is_named_and_not_used(tempo, write, tmp_path, films):
    command = ("run", write(), "--out", tmp_path / "out", "--until", "videos")
    assert "not part of this run" not in tempo(*command)[1]
    assert "not part of this run" not in tempo(*command)[1]
    film(films / "late.mp4", 200)
    before = tree(tmp_path / "out")
    code, shown, _ = tempo(*command)
    assert code == 0
    assert f"1 new files in videos.paths are not part of this run (such as {films / 'late.mp4'})" in shown
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (Exception("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (Exception("database or disk is full"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/ro/x"), "Permission denied: '/ro/x'"),
        (Exception("I/O error: Input/output error (os error 5)"), "Input/output error"),
        (MemoryError(), "not enough memory (MemoryError)"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."), "not enough memory"),
    ],
)
def test_failure_of_disk_or_memory_is_one_message(tempo, write, tmp_path, monkeypatch, error, words):
    monkeypatch.setattr(runner, "run_stages", raising(error))
    result = tempo("run", write(), "--out", tmp_path / "out")
    assert_refused(result, words)
    assert result[2].count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "work", "kept"),
    [
        (["run", "{config}", "--out", "{out}"], "tempo.pipeline.runner.run_stages", True),
        (["clips", "{config}", "--out", "{out}"], "tempo.pipeline.runner.run_stages", True),
        (["probe", "embedded", "films"], "tempo.cli.probe.check_model_path", False),
        (["audit", "{out}"], "tempo.cli.main.check_run_directory", False),
        (["export", "{out}", "--format", "trl", "--out", "x"], "tempo.cli.main.check_run_directory", False),
    ],
)
def test_stopping_prints_what_is_kept(tempo, write, tmp_path, monkeypatch, arguments, work, kept):
    monkeypatch.setattr(work, raising(KeyboardInterrupt))
    names = {"config": write(), "out": tmp_path / "out"}
    code, _, err = tempo(*(word.format(**names) for word in arguments))
    assert code == 130
    assert ("the same command again to resume" in err) is kept
    assert ("nothing was written" in err) is not kept


def test_a_bug_keeps_its_traceback(tempo, write, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_stages", raising(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        tempo("run", write(), "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["films", "my films", 'the "best" ones', "back\\slash", "it's", "été 映画", "films 🎬", "a # b", "[x]"],
)
def test_init_writes_a_configuration_that_loads_for_any_name_of_the_folder(tempo, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.mp4").touch()
    out = tmp_path / f"{name}.toml"
    code, shown, _ = tempo("init", folder, "--out", out)
    assert code == 0
    assert shlex.split(shown.splitlines()[-1].partition("next: ")[2]) == [
        *("tempo", "run", str(out)),
        *("--out", f"out/{folder.stem}"),
    ]
    config = load_config(out)
    assert config.videos.paths == (str(folder),)
    assert [(phase.levels, phase.grouping) for phase in config.training.phases] == [((), "video")]


@pytest.mark.parametrize("model", ["embedded", "Qwen/Qwen2.5-VL-7B-Instruct", 'own\\models/"q"'])
def test_init_takes_any_model_and_writes_the_defaults(tempo, films, tmp_path, model):
    code, shown, _ = tempo("init", films, "--out", tmp_path / "made.toml", "--model", model)
    assert code == 0
    assert ("warning: the model 'embedded' only knows the synthetic world" in shown) is (model == "embedded")
    made = load_config(tmp_path / "made.toml")
    assert made.model.path == model
    # Without it, a step of a 7B model does not fit into 80 GB.
    assert made.training.phases[0].gradient_checkpointing is (model != "embedded")
    if model == "embedded":
        bare = parse_config({"videos": {"paths": [str(films)]}}).model_dump()
        assert {name for name, section in made.model_dump().items() if section != bare[name]} == {"training"}
    else:
        # Qwen2.5-VL makes a token of 28 x 28 pixels of two frames; half a row is left for the answers.
        assert made.frames.max_total_pixels / (28 * 28 * 2) < made.training.max_tokens / 2


def test_sigterm_ends_one_of_several_processes_without_an_exception(monkeypatch):
    """It may wait for another one in a call that no exception ends."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) == before
