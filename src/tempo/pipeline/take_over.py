"""`tempo run CONFIG --out B --from A`: run B begins with what run A made under the same settings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tempo.core.records import Skipped
from tempo.core.store import SKIPPED, RunStore, write_lines, write_text
from tempo.engine.types import Context
from tempo.pipeline.run_files import FILES

#: Stages whose rows may be taken over: everything before training.
TAKEN = ("synthetic", "videos", "shots", "clips", "captions", "perturbations", "responses", "pairs")


def take_over(source: Path, context: Context, stages: Sequence[str], wanted: Mapping[str, str]) -> str:
    """Copies those of the `stages` that are done in `source` with the `wanted` fingerprints.

    It ends at the first stage that is not. Stages that this run has done already stay as they are.
    Large files become hard links where the file system has them. Returns one line about what was taken over.
    """
    old, new = RunStore(source), RunStore(context.directory)
    taken = []
    for stage in stages:
        if stage not in TAKEN or not old.is_done(stage) or old.fingerprint(stage) != wanted[stage]:
            break
        if not new.is_done(stage):
            _take_stage(stage, old, new, wanted[stage])
            taken.append(stage)
    return f"taken over from {source}: {', '.join(taken) or 'nothing, the settings of its stages differ'}"


def _take_stage(stage: str, old: RunStore, new: RunStore, fingerprint: str) -> None:
    new.begin(stage, fingerprint)
    for name in FILES.get(stage, ()):
        _copy(old.directory / name, new.directory / name)
    if old.path(stage).exists():
        write_text(new.path(stage), _moved(old.path(stage).read_text(encoding="utf-8"), old, new))
    skipped = [row for row in old.read(SKIPPED, Skipped) if row.stage == stage]
    kept = [row for row in new.read(SKIPPED, Skipped) if row.stage != stage]
    lines = [_moved(row.model_dump_json(), old, new) for row in skipped]
    if skipped or kept:
        write_lines(new.path(SKIPPED), [*(row.model_dump_json() for row in kept), *lines])
    new.finish(stage, fingerprint)


def _moved(text: str, old: RunStore, new: RunStore) -> str:
    """The text with paths in the `synthetic` folder of the old run as those of the new run."""
    before, after = (
        json.dumps(str(store.directory / "synthetic"), ensure_ascii=False)[1:-1] for store in (old, new)
    )
    return text.replace(before + "/", after + "/")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)
    elif source.exists():
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none. Files of a run are replaced, never changed."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
