"""What a run of the recipe costs: hours and disk by stage, for up to 178,000 videos of two minutes.

    python benchmarks/cost.py [--device-memory 80GB] [--videos DIR]

The table is `tempo plan` of configs/paper.toml for made-up headers (120 s, 1280 x 720, 30 frames a second),
with the configuration of Qwen2.5-VL-7B and the processor of the embedded model at patches of 14 pixels, so no
weights or files are needed. GPU rates are those that `tempo plan` assumes: **they have not been measured**.

`--videos DIR` measures the stages up to clips on the files in DIR, for about a minute of processor time:
decoded pixels per second of processor time, bytes per pixel of stored frames, the share of files that give
clips, and bytes of the rows of `shots`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import harness
from pydantic import ByteSize, TypeAdapter

COUNTS = (1000, 25_000, 178_000)
SECONDS = 120.0


def write_checkpoint(folder: Path) -> None:
    """Writes the configuration of the 7B model and a processor of its patch size, without weights."""
    import gpu_model

    from tempo.model.loading import embedded_path

    shutil.copytree(embedded_path(), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = gpu_model.make_config(gpu_model.SEVEN_B).to_dict()
    # Those of the embedded processor.
    config |= {"image_token_id": 6, "video_token_id": 5, "vision_start_token_id": 3, "vision_end_token_id": 4}
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "processor_config.json"
    processor = json.loads(file.read_text())
    for part in ("image_processor", "video_processor"):
        # The size that a run stores is not changed.
        processor[part] |= {"patch_size": 14, "size": {"shortest_edge": 1, "longest_edge": 10**9}}
    file.write_text(json.dumps(processor))


def costs(device_bytes: int) -> None:
    """Prints the hours and the disk space of each step."""
    import torch

    from tempo.config import load_config
    from tempo.core.records import Video
    from tempo.pipeline.plan import Plan

    facts = {"duration_seconds": SECONDS, "width": 1280, "height": 720, "fps": 30.0, "codec": "h264"}
    video = Video(id="", path="", **facts)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "model")
        changes = [f"model.path='{folder}/model'", "run.num_workers=1"]
        config = load_config(Path(__file__).parents[1] / "configs" / "paper.toml", changes)
        # Six short questions per video, at most 60,000.
        training = config.training.model_copy(update={"instructions": ""})
        config = config.model_copy(update={"training": training})
        plan = Plan(config, [video], torch.device("cuda"), device_bytes)
        lines: dict[str, list[str]] = {}
        for count in COUNTS:
            plan.videos, plan.num_kept = [video] * count, round(count * plan.rates.kept_per_video)
            steps = [*plan.steps()]
            lines.setdefault("shots, clips: core hours", []).append(count * plan.decoding_seconds / 3600)
            for step in steps:
                lines.setdefault(f"{step.name}: GPU hours", []).append(step.seconds / 3600)
            for name, size in plan.disk_bytes(steps).items():
                lines.setdefault(f"{name}: GB", []).append(size / 1e9)
        print(f"{plan.longest.lengths[0]:,} tokens of video and prompt; {plan.rates}")
        for step in steps:
            tflop, peak = step.cost.flops / 1e12, step.cost.peak_bytes / 1e9
            what = f"{step.num_tokens:,} tokens, {tflop:,.0f} TFLOP a batch, peak {peak:.1f} GB"
            print(f"{step.name}: {what} {step.advice}")
    cells = [[name, *(f"{value:,.3g}" for value in values)] for name, values in lines.items()]
    print(harness.table(["", *(f"{count:,} videos" for count in COUNTS)], cells))


def measure(folder: Path) -> None:
    """Prints what the stages up to clips need on this machine, on one core."""
    from tempo.config import Config
    from tempo.core.records import Skipped
    from tempo.engine.types import Context, SkipRecord, flatten
    from tempo.pipeline.stages import find_stage
    from tempo.video.find import find_videos, read_header, video_id
    from tempo.video.frames import frame_shape

    config = Config.model_validate({"videos": {"paths": [str(folder)]}, "run": {"num_workers": 1}})
    pixels, stored, num_files, num_kept, num_bytes, start = 0.0, 0.0, 0, 0, 0, time.process_time()
    with tempfile.TemporaryDirectory() as out:
        context = Context(config, Path(out))
        workers = [resolve_name(find_stage(name).worker)(context) for name in ("shots", "clips")]
        for path in find_videos([folder], config.videos.extensions):
            try:
                rows: list[Any] = [video := read_header(str(path), video_id(path))]
            except SkipRecord:
                continue
            for name, worker in zip(("shots", "clips"), workers, strict=True):
                rows = [row for row in flatten(worker(rows)) if not isinstance(row, Skipped)]
                num_bytes += sum(len(row.model_dump_json()) for row in rows) if name == "shots" else 0
            num_files, num_kept = num_files + 1, num_kept + bool(rows)
            pixels += video.duration_seconds * video.fps * video.width * video.height
            stored += math.prod(frame_shape(video, config.frames)[:3])
            if (seconds := time.process_time() - start) > 60:
                break
        size = sum(file.stat().st_size for file in Path(out).rglob("*.safetensors"))
    rate, row = pixels / seconds / 1e6, num_bytes / num_files / 1e3
    print(f"{num_files} files, {num_kept} kept, {seconds:.1f} s: {rate:.0f} million pixels per second")
    print(f"frames: {size / stored:.2f} bytes per pixel; rows of shots: {row:.1f} kB per file")


def main() -> None:
    """Prints the table, or the rates of this machine."""
    words = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=words)
    parser.add_argument("--device-memory", default="80GB")
    parser.add_argument("--videos", type=Path)
    arguments = parser.parse_args()
    harness.quiet_environment(1)
    if arguments.videos:
        measure(arguments.videos)
    else:
        costs(TypeAdapter(ByteSize).validate_python(arguments.device_memory))


if __name__ == "__main__":
    main()
