"""`tempo init`: a commented configuration for a folder of videos."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tempo.config import VideosConfig
from tempo.config.data import HUB_MAX_PIXELS, HUB_TOTAL_PIXELS
from tempo.model.loading import EMBEDDED, check_model_path
from tempo.video.find import find_videos

TEMPLATE = """\
# A run of tempo, which teaches a Video LLM the order of time. Start it with: tempo run {out} --out out/run
# Keys that are left out have their default; docs/configuration.md lists all of them.

[run]
seed = 0
num_workers = 0          # processes for decoding; 0 is one per core

[model]
path = {model}    # checkpoint directory, hub name, or "embedded" (the small model in the package)
dtype = "auto"           # bfloat16 on a GPU, float32 on a CPU

[videos]
paths = [{videos}]

[frames]                 # what the model sees
fps = 1.0                # frames per second
max_frames = 600         # longer videos get a lower rate
{pixels}

[shots]
detector = "content"     # or "adaptive" (for fast camera moves), or "transnet" (learned; extra transnet)

[clips]                  # only videos with enough temporal structure are used
min_shots = 4
max_shots = 32
max_shot_seconds = 16.0  # the longest shot
similarity = 0.8         # shots that are more similar than this belong to one group
min_clips = 4

[perturbations]
kinds = ["drop", "shuffle", "reverse"]  # also available: "swap", which exchanges two clips
levels = [16, 8, 4, 2]   # from easy to hard
rule = "distinct"        # "paper" is the rule of the released code, with its faults, for reproduction

[responses]
input_form = "captions"  # what is perturbed; with "clips" or "video" the model sees frames instead

[pairs]
max_length_ratio = 1.5   # between the lengths of the two answers

# The curriculum is DPO from easy to hard. For instruction tuning add a phase with objective = "sft", and set
# training.instructions to a file with rows of video, question and answer (see docs/guide.md).
"""

#: Lines of [frames]. The embedded model was trained on small frames.
EMBEDDED_PIXELS = "max_pixels = 16384       # per frame"
HUB_PIXELS = f"""\
max_pixels = {HUB_MAX_PIXELS}      # per frame
max_total_pixels = {HUB_TOTAL_PIXELS:_}  # of all frames of a video: long videos have smaller frames. This is
                         # about 6,000 tokens of Qwen2.5-VL; video and answers must fit max_tokens"""

PHASE = """
[[training.phases]]
name = "dpo-{level}"
objective = "dpo"
levels = [{level}]
learning_rate = 5e-6     # as in the paper, for 7B models with LoRA
lora_rank = 32
lora_alpha = 64
batch_size = 5           # videos per step, with up to three pairs each
nll_weight = 1.0         # as in the released recipe; 0 is plain DPO
"""


def write_starting_config(videos: Path, out: Path, model: str) -> None:
    """Writes the configuration to `out`.

    Raises ValueError if `out` exists, if there is no video in `videos`, or if there is no such model.
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
        pixels=EMBEDDED_PIXELS if model == EMBEDDED else HUB_PIXELS,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "".join(PHASE.format(level=level) for level in (16, 8, 4, 2)), encoding="utf-8")
