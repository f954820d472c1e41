"""Trackers show every step of a run once, and cannot stop it. Files on disk only, no server."""

import json
import sqlite3
import threading
import time

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker
from sample_material import clips_of, context_of, grey_jpegs, pair_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tempo.core.files import write_lines
from tempo.core.store import RunStore
from tempo.training import trackers
from tempo.training.trackers import check_trackers, tracked
from tempo.video.frames import FrameStore

TABLE = {"held-out videos": [["", "base", "tempo"], ["probe", "50.0", "75.0"]]}


@pytest.fixture(autouse=True)
def _short_interval(monkeypatch):
    monkeypatch.setattr(trackers, "INTERVAL_SECONDS", 0.1)


def run_of(directory, name):
    """A run with the tracker `name` and a pair about a video of four grey clips."""
    store = RunStore(directory)
    store.append("clips", [clips_of((0, 1), (1, 2), (2, 3), (3, 4))])
    store.append("pairs", [pair_of("v", "reverse", 4, (3, 2, 1, 0))])
    jpegs = grey_jpegs(range(0, 200, 25), (64, 64))
    FrameStore(directory / "frames").write("v", jpegs, seconds=range(8), fps=1.0, key_frames=jpegs)
    return context_of(directory, run={"trackers": [name]}, model={"device": "cpu"})


def write_metrics(run, phase, num_steps):
    rows = [
        {"loss": 1 / step, "rewards/margins": float(step), "step": step} for step in range(1, num_steps + 1)
    ]
    write_lines(run / phase / "metrics.jsonl", map(json.dumps, rows))


def train_with_a_stop(context):
    """Two phases and a baseline. After a stop at step 5, the run resumes at step 3."""
    run = context.directory
    with tracked(context):
        write_metrics(run, "train/01-dpo", 5)
    write_metrics(run, "train/01-dpo", 3)
    with tracked(context, lambda: TABLE):
        write_metrics(run, "train/01-dpo", 6)
        time.sleep(0.3)
        write_metrics(run, "train/02-sft", 2)
        write_metrics(run, "baselines/sft_only/01-sft", 2)


#: Values of the losses that a tracker must have, by step.
WANTED = {
    "01-dpo/loss": {step: 1 / step for step in range(1, 7)},
    "02-sft/loss": {7: 1.0, 8: 0.5},
    "sft_only/01-sft/loss": {9: 1.0, 10: 0.5},
}


def read_tensorboard(folder):
    (events,) = folder.iterdir()
    found = EventAccumulator(str(events))
    found.Reload()
    return found


def test_tensorboard_has_each_step_once_pictures_and_the_table(tmp_path):
    context = run_of(tmp_path / "my run", "tensorboard")
    train_with_a_stop(context)
    found = read_tensorboard(tmp_path / "my run" / "trackers" / "tensorboard")
    for name, values in WANTED.items():
        rows = [(event.step, event.value) for event in found.Scalars(name)]
        assert rows == [(step, pytest.approx(value)) for step, value in values.items()]
    assert [(image.step, image.width, image.height) for image in found.Images("pairs/reverse")] == [
        (0, 256, 128)
    ]
    (table,) = found.Tensors("held-out videos/text_summary")
    assert "| probe | 50.0 | 75.0 |" in table.tensor_proto.string_val[0].decode()
    (config,) = found.Tensors("config/text_summary")
    assert '"trackers"' in config.tensor_proto.string_val[0].decode()


def test_a_step_that_was_sent_but_not_noted_is_not_shown_twice(tmp_path):
    context = run_of(tmp_path / "run", "tensorboard")
    with tracked(context):
        write_metrics(tmp_path / "run", "train/01-dpo", 5)
    state = tmp_path / "run" / "trackers" / "tensorboard.json"
    state.write_text(state.read_text().replace('"01-dpo": 5', '"01-dpo": 4'))
    with tracked(context):
        write_metrics(tmp_path / "run", "train/01-dpo", 6)
    found = read_tensorboard(tmp_path / "run" / "trackers" / "tensorboard")
    assert [event.step for event in found.Scalars("01-dpo/loss")] == [1, 2, 3, 4, 5, 6]


def test_trackio_resumes_its_run(tmp_path, monkeypatch):
    utils = pytest.importorskip("trackio.utils")
    storage = pytest.importorskip("trackio.sqlite_storage")
    for module in (utils, storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    train_with_a_stop(run_of(tmp_path / "run", "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "tempo.db") as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
        assert len(database.execute("select distinct run_id from metrics").fetchall()) == 1
    logged = [(step, json.loads(values)) for step, values in rows]
    for name, values in WANTED.items():
        assert [(step, row[name]) for step, row in logged if name in row] == list(values.items())
    assert [
        row["held-out videos"]["_value"][0]["tempo"] for _, row in logged if "held-out videos" in row
    ] == ["75.0"]
    assert sum("pairs/reverse" in row for _, row in logged) == 1


def read_wandb(path):
    """The logged rows of a file of W&B: records in blocks of 32 KiB, each part after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, record, rows = path.read_bytes(), 7, b"", []
    while position < len(data):
        left = 32768 - position % 32768
        size, kind = (
            int.from_bytes(data[position + 4 : position + 6], "little"),
            data[position + 6 : position + 7],
        )
        if left < 7 or not kind:
            position += left
            continue
        record += data[position + 7 : position + 7 + size]
        position += 7 + size
        # The last part of a record, or a whole one.
        if kind in b"\x01\x04":
            items = Record.FromString(record).history.item
            rows += [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}]
            record = b""
    return [row for row in rows if row]


def test_wandb_offline_continues_under_the_same_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])
    train_with_a_stop(run_of(tmp_path / "run", "wandb"))
    run_id = json.loads((tmp_path / "run" / "trackers" / "wandb.json").read_text())["id"]
    first, second = sorted((tmp_path / "run" / "trackers" / "wandb").glob("offline-run-*"))
    files = [folder / f"run-{run_id}.wandb" for folder in (first, second)]
    # Another process writes the files, and may not be done yet.
    for _ in range(100):
        rows = [row for file in files for row in read_wandb(file)]
        if rows[-1]["_step"] == 10:
            break
        time.sleep(0.1)
    for name, values in WANTED.items():
        assert [(row["_step"], row[name]) for row in rows if name in row] == list(values.items())
    assert [len(list(folder.rglob("reverse*.png"))) for folder in (first, second)] == [1, 0]
    assert len(list(second.rglob("*.table.json"))) == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(tempo, tmp_path, monkeypatch):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    (tmp_path / "v").mkdir()
    settings = '[videos]\npaths = ["v"]\n[run]\ntrackers = ["tensorboard", "mlflow"]\n'
    (tmp_path / "tempo.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    code, _, error = tempo("run", "tempo.toml", "--out", "out")
    assert code == 2
    assert "run.trackers: not installed: mlflow. Run: pip install mlflow" in error
    assert not (tmp_path / "out").exists()


def fail():
    raise OSError("full")


@pytest.mark.parametrize(
    ("act", "fault"), [(fail, "OSError: full"), (threading.Event().wait, "did not answer within 1 s")]
)
def test_a_tracker_that_fails_or_hangs_gives_one_warning_and_is_complete_later(
    tmp_path, monkeypatch, act, fault
):
    class Bad(TensorBoardTracker):
        def log(self, values, step=None, **options):
            act()

    monkeypatch.setattr(trackers, "LIMIT_SECONDS", 1)
    context = run_of(tmp_path / "run", "tensorboard")
    write_metrics(tmp_path / "run", "train/01-dpo", 3)
    with monkeypatch.context() as patch:
        patch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Bad)
        with pytest.warns(UserWarning, match=fault) as caught, tracked(context):
            pass
    assert len(caught) == 1
    with tracked(context):
        write_metrics(tmp_path / "run", "train/01-dpo", 4)
    found = read_tensorboard(tmp_path / "run" / "trackers" / "tensorboard")
    assert [event.step for event in found.Scalars("01-dpo/loss")] == [1, 2, 3, 4]


def test_a_tracker_that_answers_after_it_was_given_up_sends_nothing_more(tmp_path, monkeypatch):
    sent, answer = [], threading.Event()

    class Slow(TensorBoardTracker):
        def log(self, values, step=None, **options):
            if step:
                sent.append((self, step))
                answer.wait()

    monkeypatch.setattr(trackers, "LIMIT_SECONDS", 1)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Slow)
    context = run_of(tmp_path / "run", "tensorboard")
    write_metrics(tmp_path / "run", "train/01-dpo", 3)
    with pytest.warns(UserWarning, match="did not answer within 1 s"), tracked(context):
        pass
    answer.set()
    with tracked(context):
        time.sleep(0.5)
    first = sent[0][0]
    assert [step for tracker, step in sent if tracker is first] == [1]
    assert [step for tracker, step in sent if tracker is not first] == [1, 2, 3]
