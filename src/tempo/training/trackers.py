"""Experiment trackers: TensorBoard, Weights & Biases, Trackio and MLflow show the metrics of a run.

What a tracker does not have yet is read from the files of the run, so a resumed run sends no step twice. A
tracker that fails or hangs does not stop the training.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from tempo.core.files import whole_lines, write_json
from tempo.core.records import Clips, Pair
from tempo.core.store import RunStore
from tempo.engine.ranks import make_accelerator
from tempo.engine.types import Context
from tempo.preference.exporting import markdown_table
from tempo.video.frames import FrameStore

#: The project, or experiment, in which the trackers show the runs.
PROJECT = "tempo"

#: The files of metrics in a run.
METRICS = ("train/*/metrics.jsonl", "baselines/*/*/metrics.jsonl")

#: Time between two reads of the files of the run.
INTERVAL_SECONDS = 2.0
#: How long the end of training or evaluation waits for a tracker, whose server may not answer.
LIMIT_SECONDS = 120.0
#: Approximate height of each row of a film strip, in pixels.
STRIP_HEIGHT = 96

#: Tables of text by name, headings first.
Tables: TypeAlias = Mapping[str, Sequence[Sequence[str]]]


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError if a tracker is not installed, or if Weights & Biases lacks a login."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        names = " ".join(missing)
        raise ValueError(f"run.trackers: not installed: {names}. Run: pip install {names}")
    # Without a login, wandb asks for one: better now than in the middle of a run.
    if "wandb" in names and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb

        try:
            wandb.login()
        except wandb.errors.Error as error:
            raise ValueError(f"run.trackers: wandb: {error} Or set WANDB_MODE=offline") from None


@contextlib.contextmanager
def tracked(context: Context, tables: Callable[[], Tables] = dict) -> Iterator[None]:
    """During the block, sends new metrics to the trackers in `run.trackers`; at its end, also `tables()`.

    A tracker that fails or hangs gives one warning and is not used any more; the next call of `tracked` sends
    what is missing. Only process 0 may call it.
    """

    given_up = set[str]()

    def give_up(name: str, problem: str) -> None:
        if name in given_up:
            return
        given_up.add(name)
        advice = "The run continues; missing steps are sent when training or evaluation starts again"
        warnings.warn(f"run.trackers: {name} stopped: {problem}. {advice}", stacklevel=2)

    def follow(name: str) -> None:
        try:
            run = _TrackerRun(name, context, lambda: name in given_up)
            while not is_over.wait(INTERVAL_SECONDS):
                run.send_metrics()
            run.finish(tables())
        # Trackers raise errors of their own.
        except Exception as error:
            give_up(name, f"{type(error).__name__}: {error}")

    names, is_over = context.config.run.trackers, threading.Event()
    if names:
        # The trackers of accelerate need its state.
        make_accelerator(context.config.model.device)
    # Python does not wait for daemon threads when it exits. One each: the run of MLflow is that of a thread.
    threads = {name: threading.Thread(target=follow, args=(name,), daemon=True) for name in names}
    for thread in threads.values():
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for name, thread in threads.items():
            thread.join(LIMIT_SECONDS)
            if thread.is_alive():
                give_up(name, f"it did not answer within {LIMIT_SECONDS:g} s")


class _TrackerRun:
    """The run of one tracker. A file holds its id and the number of steps that were sent of each phase.

    If it `is_given_up` when a call of the tracker returns, it sends nothing more: another one has taken over.
    """

    def __init__(self, name: str, context: Context, is_given_up: Callable[[], bool]) -> None:
        self._is_given_up = is_given_up
        self._name, self._run, folder = name, context.directory, context.directory / "trackers"
        self._path = folder / f"{name}.json"
        label = re.sub(r"[^A-Za-z0-9_-]+", "-", self._run.absolute().name)
        self._state: dict[str, Any] = {"id": f"{label}-{secrets.token_hex(3)}", "is_new": True}
        if self._path.exists():
            self._state = json.loads(self._path.read_text(encoding="utf-8"))
        self._num_sent: dict[str, int] = self._state.setdefault("num_sent", {})
        # Before the tracker starts, so that a run that is killed now does not get a second one.
        write_json(self._path, self._state)
        settings = context.config.model_dump(mode="json", exclude_none=True)
        options = self._options(folder, settings)
        self.tracker = LOGGER_TYPE_TO_CLASS[name](**options)
        self.tracker.start()
        self._stop_if_given_up()
        if self._state["is_new"]:
            self._send_start(context, settings)

    def _options(self, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
        name, num_steps = self._state["id"], sum(self._num_sent.values())
        if self._name == "tensorboard":
            # Hides steps that a killed run had sent but not recorded.
            folder = folder / "tensorboard"
            return {"run_name": name, "logging_dir": folder, "purge_step": num_steps + 1}
        if self._name == "mlflow":
            return {"experiment_name": PROJECT, "run_id": self._state.get("mlflow_id"), "run_name": name}
        options = {"run_name": PROJECT, "name": name, "resume": "allow", "config": settings}
        if self._name == "wandb":
            own = self._module.Settings(console="off", finish_timeout=60.0)
            options |= {"id": name, "dir": str(folder), "settings": own}
        return options

    def _send_start(self, context: Context, settings: dict[str, Any]) -> None:
        """Sends the configuration, unless it is an argument of the tracker's class, and some pairs."""
        if self._name == "mlflow":
            self._state["mlflow_id"] = self.tracker.tracker.info.run_id
            write_json(self._path, self._state)
            flat = {f"{name}.{key}": value for name, own in settings.items() for key, value in own.items()}
            self.tracker.store_init_configuration(flat)
        if self._name == "tensorboard":
            self.tracker.log({"config": f"```\n{json.dumps(settings, indent=2)}\n```"}, step=0)
        for name, image, text in film_strips(context):
            if self._name in ("trackio", "wandb"):
                self.tracker.log({name: self._module.Image(image, caption=text)}, step=0)
                continue
            self._send_text(name, text, step=0)
            if self._name == "tensorboard":
                self.tracker.log_images({name: image[None]}, step=0, dataformats="NHWC")
            else:
                self._module.log_image(image, f"{name}.png")
        self._state["is_new"] = False
        write_json(self._path, self._state)

    def send_metrics(self) -> None:
        """Sends the steps of all phases that the tracker does not have yet; step numbers continue."""
        for path in (path for pattern in METRICS for path in sorted(self._run.glob(pattern))):
            phase = "/".join(path.relative_to(self._run).parts[1:-1])
            num_sent = self._num_sent.setdefault(phase, 0)
            # Phases are in the order of their first step.
            phases = list(self._num_sent)
            before = sum(self._num_sent[name] for name in phases[: phases.index(phase)])
            for line in islice(whole_lines(path), num_sent, None):
                row = json.loads(line)
                step = int(row.pop("step"))
                values = {f"{phase}/{name}": value for name, value in row.items()}
                self.tracker.log(values, step=before + step)
                self._stop_if_given_up()
                self._num_sent[phase] = step
                write_json(self._path, self._state)

    def finish(self, tables: Tables) -> None:
        """Sends the last metrics, and tables at the last step."""
        self.send_metrics()
        step = sum(self._num_sent.values())
        for name, (headings, *rows) in tables.items():
            if self._name in ("trackio", "wandb"):
                table = self._module.Table(columns=[cell or name for cell in headings], data=rows)
                self.tracker.log({name: table}, step=step)
            else:
                self._send_text(name, markdown_table([headings, *rows]), step=step)
        self.tracker.finish()

    def _stop_if_given_up(self) -> None:
        if self._is_given_up():
            raise TimeoutError

    def _send_text(self, name: str, text: str, *, step: int) -> None:
        if self._name == "tensorboard":
            self.tracker.log({name: text}, step=step)
        else:
            self._module.log_text(text, f"{name}.md")

    @property
    def _module(self) -> Any:
        return importlib.import_module(self._name)


def film_strips(context: Context) -> Iterator[tuple[str, np.ndarray, str]]:
    """For a pair of each kind: a name, the clips as filmed above those of the pair, and both texts.

    The image is uint8 [H, W, 3]; replaced clips are black. Pairs without known clips are left out.
    """
    store, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    clips = store.rows("clips", Clips)
    known = [pair for pair in store.read("pairs", Pair) if pair.video_id in clips and pair.order]
    for pair in {pair.kind: pair for pair in reversed(known)}.values():
        # The first of the two key frames of each clip.
        first = frames.read_key_frames(pair.video_id)[::2]
        step = max(1, first.shape[1] // STRIP_HEIGHT)
        small = first[:, ::step, ::step]
        picked = small[[*pair.order]]
        if pair.kind == "replace":
            picked = small * np.isin(range(len(small)), pair.order)[:, None, None, None]
        filmed, shown = np.hstack([*small]), np.hstack([*picked])
        missing = filmed.shape[1] - shown.shape[1]
        image = np.vstack([filmed, np.pad(shown, ((0, 0), (0, missing), (0, 0)))])
        text = f"{pair.kind}, level {pair.level}\n\nchosen: {pair.chosen}\n\nrejected: {pair.rejected}"
        yield f"pairs/{pair.kind}", image, text
