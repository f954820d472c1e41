"""A first configuration for somebody's own videos, with every value that matters explained."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tempo.config import VideosConfig
from tempo.config.data import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.model.paths import EMBEDDED, check_model_path
from tempo.video.videos import find_videos

TEMPLATE = """\
# tempo: teach a Video LLM the order of time. Run it with: tempo run {out} --out out/run
# What is not said here has its default: docs/configuration.md has every key.

[run]
seed = 0
num_workers = 0          # processes for decoding; 0 is one per core

[model]
path = {model}    # checkpoint directory, hub name, or "embedded" (the small model in the package)
dtype = "auto"           # bfloat16 on a GPU, float32 on a CPU

[videos]
paths = [{videos}]

[frames]
fps = 1.0                # what the model sees in training
max_frames = 600
{max_pixels}

[shots]
detector = "content"     # or "adaptive" (fast camera moves), or "transnet" (learned; extra transnet)

[clips]                  # what counts as rich in time
min_shots = 4
max_shots = 32
max_shot_seconds = 16.0
similarity = 0.8         # shots more alike than this are one group
min_clips = 4

[perturbations]
kinds = ["drop", "shuffle", "reverse"]  # and "swap": two clips change places
levels = [16, 8, 4, 2]   # easy to hard
rule = "distinct"        # "paper" is the released rule, faults included, for reproduction

[responses]
input_form = "captions"  # what is perturbed; "clips" and "video" show the model frames instead of captions

[pairs]
max_length_ratio = 1.5

# The curriculum: DPO from easy to hard. An sft phase may follow; it needs training.instructions, a file
# with rows of video, question and answer, or with conversations as LLaVA-Video has them (see the README).
"""

#: Lines of [frames]. The embedded models look at small pictures, so that nothing of them grows too long.
EMBEDDED_PIXELS = "max_pixels = 16384       # per frame"
PIXELS = f"""\
max_pixels = {HUB_MAX_PIXELS}      # per frame
max_total_pixels = {HUB_TOTAL_PIXELS:_}  # all frames of a video: the longer it is, the smaller they are;
                         # about 6,000 tokens for Qwen2.5-VL. With its answers it must fit training.max_tokens
                         # (16384)"""

PHASE = """
[[training.phases]]
name = "dpo-{level}"
objective = "dpo"
levels = [{level}]
learning_rate = 5e-6     # the paper's, for 7B models with LoRA
lora_rank = 32
lora_alpha = 64
batch_size = 5           # videos per step; up to three pairs each
nll_weight = 1.0         # the released recipe's; 0 is plain DPO
"""


def write_starting_config(videos: Path, out: Path, model: str) -> None:
    """Writes the configuration.

    Raises ValueError, as `tempo run` would, if there is no video or no such model; or if the file exists.
    """
    if not videos.exists():
        raise ValueError(f"{videos} does not exist")
    if out.exists():
        raise ValueError(f"{out} exists already; give another --out")
    check_model_path(model)
    find_videos([videos], VideosConfig().extensions)
    text = TEMPLATE.format(
        out=shlex.quote(str(out)),
        model=json.dumps(model, ensure_ascii=False),
        videos=json.dumps(str(videos.resolve()), ensure_ascii=False),
        max_pixels=EMBEDDED_PIXELS if model == EMBEDDED else PIXELS,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "".join(PHASE.format(level=level) for level in (16, 8, 4, 2)), encoding="utf-8")
