"""Experiment trackers: TensorBoard, Weights & Biases, Trackio and MLflow show the metrics of a run.

For each tracker, a thread sends what it does not have yet from the files of the run. So a tracker that is
slow or fails does not affect the training, and a resumed run does not send a step twice.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tempo.core.files import whole_lines, write_json
from tempo.core.records import Clips, Pair
from tempo.core.store import RunStore
from tempo.engine.ranks import make_accelerator
from tempo.engine.types import Context
from tempo.preference.exporting import markdown_table
from tempo.video.frames import FrameStore

PROJECT = "tempo"

#: Time between two looks at the files of the run.
INTERVAL_SECONDS = 2.0
#: How long the end of a stage waits for a tracker.
TIMEOUT_SECONDS = 60.0
#: Film strips have about this height per row, in pixels.
STRIP_HEIGHT = 96

#: Tables of text by name, headings first.
Tables: TypeAlias = Mapping[str, Sequence[Sequence[str]]]


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError if a tracker is not installed, or if Weights & Biases lacks a login."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"run.trackers: not installed: {', '.join(missing)}. Run: pip install {' '.join(missing)}"
        )
    # Without a login, wandb asks for one: better now than in the middle of the training.
    if "wandb" in names and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb

        try:
            wandb.login()
        except wandb.errors.Error as error:
            raise ValueError(f"run.trackers: wandb: {error} Or set WANDB_MODE=offline") from None


@contextlib.contextmanager
def tracked(
    context: Context,
    tables: Callable[[], Tables] = dict,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Iterator[None]:
    """Sends metrics to the trackers in `run.trackers` during the block, and `tables()` at its end.

    A tracker that fails is left alone after one warning; the next call sends what it lacks. The end of the
    block waits for trackers for at most `timeout_seconds`. Only process 0 may call it.
    """
    names = context.config.run.trackers
    if names:
        # The trackers of accelerate need its state.
        make_accelerator(context.config.model.device)
    stop = threading.Event()
    threads = [
        # Daemons, so that a tracker that hangs does not keep the process alive.
        threading.Thread(target=_mirror, args=(name, context, stop, tables), name=name, daemon=True)
        for name in dict.fromkeys(names)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        end = time.monotonic() + timeout_seconds
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                _warn(thread.name, f"it did not finish within {timeout_seconds:g} seconds")


def _mirror(name: str, context: Context, stop: threading.Event, tables: Callable[[], Tables]) -> None:
    try:
        mirror = _Mirror(name, context)
        is_last = False
        while not is_last:
            is_last = stop.wait(INTERVAL_SECONDS)
            mirror.send_metrics()
        mirror.send_tables(tables())
        mirror.finish()
    # Trackers raise errors of their own.
    except Exception as error:
        _warn(name, f"{type(error).__name__}: {error}")


def _warn(name: str, problem: str) -> None:
    advice = "The run continues without it; its next start sends what is missing"
    warnings.warn(f"run.trackers: {name} stopped: {problem}. {advice}", stacklevel=2)


class _Mirror:
    """The run of one tracker. Its id, and the number of steps that it has of each phase, are in a file."""

    def __init__(self, name: str, context: Context) -> None:
        self._name, self._context, self._folder = name, context, context.directory / "trackers"
        self._path = self._folder / f"{name}.json"
        label = re.sub(r"[^A-Za-z0-9_-]+", "-", context.directory.absolute().name)
        known = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        self._id: str = known.get("id", f"{label}-{secrets.token_hex(3)}")
        self._mlflow_id: str | None = known.get("mlflow_id")
        self._is_new: bool = known.get("is_new", True)
        self._num_sent: dict[str, int] = known.get("num_sent", {})
        # Before the tracker starts, so that a run that is killed now does not get a second one.
        self._save()
        self._tracker = self._make_tracker()
        self._tracker.start()
        if self._is_new:
            self._send_start()

    def _make_tracker(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        make, name = LOGGER_TYPE_TO_CLASS[self._name], self._id
        resumed = {"name": name, "resume": "allow", "config": _settings(self._context)}
        if self._name == "tensorboard":
            # Hides what a killed run sent but did not note.
            return make(name, self._folder / "tensorboard", purge_step=sum(self._num_sent.values()) + 1)
        if self._name == "trackio":
            return make(PROJECT, **resumed)
        if self._name == "wandb":
            import wandb

            settings = wandb.Settings(console="off", finish_timeout=TIMEOUT_SECONDS)
            return make(PROJECT, id=name, dir=str(self._folder), settings=settings, **resumed)
        return make(PROJECT, run_id=self._mlflow_id, run_name=name)

    def _send_start(self) -> None:
        """Sends the configuration, unless it is an argument of the tracker, and some pairs."""
        if self._name == "mlflow":
            self._mlflow_id = self._tracker.tracker.info.run_id
            self._save()
            keys = _settings(self._context).items()
            self._tracker.store_init_configuration({f"{s}.{k}": v for s, own in keys for k, v in own.items()})
        if self._name == "tensorboard":
            text = json.dumps(_settings(self._context), indent=2, ensure_ascii=False)
            self._tracker.log({"config": f"```\n{text}\n```"}, step=0)
        for name, image, text in film_strips(self._context):
            self._send_image(name, image, text)
        self._is_new = False
        self._save()

    def send_metrics(self) -> None:
        """Sends the steps of all phases that the tracker does not have yet; step numbers continue."""
        run = self._context.directory
        files = (*sorted(run.glob("train/*/metrics.jsonl")), *sorted(run.glob("baselines/*/*/metrics.jsonl")))
        for path in files:
            phase = "/".join(path.relative_to(run).parts[1:-1])
            num_sent = self._num_sent.setdefault(phase, 0)
            # Phases are in the order of their first step.
            phases = list(self._num_sent)
            before = sum(self._num_sent[name] for name in phases[: phases.index(phase)])
            for line in whole_lines(path)[num_sent:]:
                row = json.loads(line)
                step = int(row.pop("step"))
                values = {f"{phase}/{name}": value for name, value in row.items()}
                self._tracker.log(values, step=before + step)
                self._num_sent[phase] = step
                self._save()

    def _send_image(self, name: str, image: np.ndarray, text: str) -> None:
        if self._name == "tensorboard":
            self._tracker.log_images({name: image[None]}, step=0, dataformats="NHWC")
            self._tracker.log({name: text}, step=0)
        elif self._name == "mlflow":
            self._module.log_image(image, f"{name}.png")
            self._module.log_text(text, f"{name}.md")
        else:
            self._tracker.log({name: self._module.Image(image, caption=text)}, step=0)

    def send_tables(self, tables: Tables) -> None:
        """Sends tables at the last step."""
        step = sum(self._num_sent.values())
        for name, rows in tables.items():
            if self._name == "tensorboard":
                self._tracker.log({name: markdown_table(rows)}, step=step)
            elif self._name == "mlflow":
                self._module.log_text(markdown_table(rows), f"{name}.md")
            else:
                columns, data = [cell or name for cell in rows[0]], [list(row) for row in rows[1:]]
                self._tracker.log({name: self._module.Table(columns=columns, data=data)}, step=step)

    def finish(self) -> None:
        """Closes the tracker's run."""
        self._tracker.finish()

    @property
    def _module(self) -> Any:
        return importlib.import_module(self._name)

    def _save(self) -> None:
        names = ("id", "mlflow_id", "is_new", "num_sent")
        write_json(self._path, {name: getattr(self, f"_{name}") for name in names})


def _settings(context: Context) -> dict[str, Any]:
    return context.config.model_dump(mode="json", exclude_none=True)


def film_strips(context: Context) -> Iterator[tuple[str, np.ndarray, str]]:
    """For a pair of each kind: a name, the clips as filmed above those of the pair, and both texts.

    The image is uint8 [H, W, 3]. Pairs without known clips are left out.
    """
    store, frames = RunStore(context.directory), FrameStore(context.directory / "frames")
    clips = {row.id: row.clips for row in store.read("clips", Clips)}
    known = [pair for pair in store.read("pairs", Pair) if pair.video_id in clips and pair.order]
    for pair in {pair.kind: pair for pair in reversed(known)}.values():
        counts = [len(clip.key_frames) for clip in clips[pair.video_id]]
        first = frames.read_key_frames(pair.video_id)[np.cumsum([0, *counts[:-1]])]
        step = max(1, first.shape[1] // STRIP_HEIGHT)
        small = first[:, ::step, ::step]
        filmed, other = (np.hstack(list(small[list(order)])) for order in (range(len(small)), pair.order))
        image = np.vstack([filmed, np.zeros_like(filmed)])
        image[len(filmed) :, : other.shape[1]] = other
        text = f"{pair.kind}, level {pair.level}\n\nchosen: {pair.chosen}\n\nrejected: {pair.rejected}"
        yield f"pairs/{pair.kind}", image, text
