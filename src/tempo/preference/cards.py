"""The cards of exported pairs: README.md with the YAML header that the hub and `datasets` read."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tempo import __version__
from tempo.core.records import Pair

#: Size classes of the hub, by the number of rows that they stay below.
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

#: So that `datasets` opens `images` as pictures: rows of JSON only say where they lie.
TRL_FEATURES = """\
dataset_info:
  features:
{messages}
  - name: images
    list: image
  - name: tempo
    struct:
    - {{name: id, dtype: string}}
    - {{name: video_id, dtype: string}}
    - {{name: kind, dtype: string}}
    - {{name: level, dtype: int32}}
    - {{name: order, list: int32}}
    - {{name: num_clips, dtype: int32}}
{frames}"""

#: Only where a pair is about frames in another order, as in `formats.origin_of`.
TRL_FRAMES = """\
    - {name: frames, list: int32}
"""

MESSAGES = """\
  - name: {name}
    list:
    - {{name: role, dtype: string}}
    - {{name: content, dtype: string}}"""

HEADER = """\
---
# license: yours to choose; see "Licence" below
pretty_name: Temporal preference pairs
task_categories: [video-text-to-text]
tags: [video, preference, dpo, temporal-understanding, tempo]
size_categories: [{size}]
configs:
- config_name: default
  data_files:
  - split: train
    path: {file}
{features}---
"""

BODY = """\
# Temporal preference pairs

{num_pairs} pairs about {num_videos} videos: a *chosen* account of each video as it was filmed, and *rejected*
accounts.

## How many

{table}

`kind` says how the clips of the video were disturbed for the rejected account, `level` how much (a larger
level disturbs more, and is easier to tell apart). Rows go from easy to hard: train on them unshuffled for a
curriculum.

## How they were made

{origin}

## Columns

{columns}

## Licence

Not stated here: put yours into the first lines of this file. The texts were written by a model about the
videos, so the terms of both apply. The videos themselves are not part of this data set.
"""

MADE_HERE = """\
By [tempo](https://arxiv.org/abs/2503.16929) {version}, seed {seed}, without labels and without another model:
`{model}` gave an account of each video as it was filmed (chosen) and of the same video perturbed, its clips
dropped, shuffled or reversed (rejected). `config.toml` of the run has every setting."""

IMPORTED = """\
Made elsewhere, and imported into a run of tempo {version} from `{source}`: say here how."""

TRL_COLUMNS = """\
| column | |
|---|---|
| `prompt`, `chosen`, `rejected` | messages |
| `images` | the frames of the video in order, {fps} a second, in `frames/` |
| `tempo` | `id`, `video_id`, `kind`, `level`, the clips shown (`order`) of `num_clips`, maybe `frames` |

A pair whose `tempo` has `frames` is mirrored: about the perturbed video, whose `images` are these frames of
the video as filmed, in this order.

TRL's DPO trainer takes pictures and no videos, so the model is shown pictures. Their paths are absolute: make
this folder again rather than moving it. Train with `max_length=None`, or frames are cut."""

PARQUET_COLUMNS = """\
| column | |
|---|---|
| `id` | video id, kind and level |
| `video_id` | the first 16 hex digits of the SHA-256 of the video file: it finds the file wherever it lies |
| `video` | where the file lay when this was written |
| `prompt`, `chosen`, `rejected` | the texts |
| `kind`, `level` | see above |
| `order`, `num_clips` | the clips that the rejected account was given, in this order, of how many |
| `frames` | of a mirrored pair: it is about the perturbed video, these frames in this order; else empty |"""


def trl_card(run: Path, pairs: Sequence[Pair], file: str) -> str:
    """The README of an export for TRL; its header makes `datasets.load_dataset(folder)` open the frames."""
    messages = "\n".join(MESSAGES.format(name=name) for name in ("prompt", "chosen", "rejected"))
    columns = TRL_COLUMNS.format(fps=_config(run).get("frames", {}).get("fps", "?"))
    frames = TRL_FRAMES if any(pair.frames for pair in pairs) else ""
    features = TRL_FEATURES.format(messages=messages, frames=frames)
    return _card(run, pairs, file, features=features, columns=columns)


def parquet_card(run: Path, pairs: Sequence[Pair], file: str) -> str:
    """The README of a Parquet data set: counts by kind and level, how it was made, what its columns are."""
    return _card(run, pairs, file, features="", columns=PARQUET_COLUMNS)


def _card(run: Path, pairs: Sequence[Pair], file: str, *, features: str, columns: str) -> str:
    size = next((name for below, name in SIZES if len(pairs) < below), "n>1M")
    body = BODY.format(
        num_pairs=len(pairs),
        num_videos=len({pair.video_id for pair in pairs}),
        table=_table(pairs),
        origin=_origin(_config(run)),
        columns=columns,
    )
    return HEADER.format(size=size, file=file, features=features) + body


def _table(pairs: Sequence[Pair]) -> str:
    """Counts, one row per kind and one column per level, easy to hard."""
    counts = Counter((pair.kind, pair.level) for pair in pairs)
    levels = sorted({level for _, level in counts}, reverse=True)
    heads = ["kind", *(f"level {level}" if level else "no level" for level in levels), "all"]
    lines = [heads, ["---"] * len(heads)]
    for kind in sorted({kind for kind, _ in counts}):
        row = [counts[kind, level] for level in levels]
        lines.append([kind, *map(str, row), str(sum(row))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _origin(config: Mapping[str, Any]) -> str:
    if source := config.get("pairs", {}).get("import_from"):
        return IMPORTED.format(version=__version__, source=Path(source).name)
    seed = config.get("run", {}).get("seed", "?")
    return MADE_HERE.format(version=__version__, seed=seed, model=config.get("model", {}).get("path", "?"))


def _config(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
