"""`tempo plan`: what it says of a folder, of a device that is too small, and of what is missing."""

import importlib.util
import shutil

import pytest

from tempo.config import FramesConfig
from tempo.config.load import parse_config
from tempo.model.loading import embedded_path
from tempo.pipeline.plan import make_plan
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story
from tempo.video.find import read_header
from tempo.video.frames import frame_shape, sample_video

PHASE = {"name": "dpo", "objective": "dpo", "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for index, num_shots in enumerate((4, 6, 8)):
        render_story(make_story(5, index, num_shots=(num_shots,) * 2), folder / f"{num_shots}.mp4")
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture
def settings(folder):
    return {"videos": {"paths": [str(folder)]}, "training": {"phases": [PHASE]}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": 2.0, "max_pixels": 5000},
        {"fps": 3.0, "max_frames": 11},
        {"max_total_pixels": 40_000, "max_frames": 600},
    ],
)
def test_the_shape_is_that_of_the_frames_that_a_run_stores(folder, options):
    config, path = FramesConfig(**options), folder / "8.mp4"
    frames = sample_video(path, config)
    shape = frame_shape(read_header(str(path), "a"), config)
    assert (shape[:3], shape[3]) == (frames.images.shape[:3], pytest.approx(frames.fps))


def test_it_needs_no_weights_and_names_what_cannot_be_read(settings, tmp_path):
    shutil.copytree(embedded_path(), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    settings["model"] = {"path": str(tmp_path / "model"), "device": "cpu"}
    plan = make_plan(parse_config(settings))
    assert (len(plan.videos), plan.num_kept) == (3, 2)
    assert plan.longest.lengths[0] > plan.median.lengths[0] > 1
    steps = [*plan.steps()]
    assert [step.name for step in steps] == ["captions", "responses", "audit", "dpo", "evaluation"]
    assert all(step.seconds > 0 and not step.advice for step in steps)
    assert plan.disk_bytes(steps)["final model"] == steps[-1].cost.weights_bytes
    assert "1 files: cannot be opened" in plan.problems[0]
    assert "text.mp4" in plan.problems[0]


@pytest.mark.parametrize(
    ("lora_rank", "share", "expected"),
    [
        (32, 0.9, "gradient_checkpointing = true"),
        (0, 0.4, "gradient_checkpointing = true, lora_rank = 32"),
    ],
)
def test_the_advice_fits(settings, lora_rank, share, expected):
    settings["training"]["phases"] = [{**PHASE, "lora_rank": lora_rank}]
    settings["responses"] = {"max_new_tokens": 32}
    config = parse_config(settings)
    *_, step, _ = make_plan(config, device_bytes=10**12).steps()
    *_, step, _ = make_plan(config, device_bytes=int(step.cost.peak_bytes * share)).steps()
    assert step.advice == expected


def test_of_a_long_video_only_segments_count(settings):
    """Unless pairs are imported, which are about whole videos."""
    settings |= {"clips": {"max_minutes": 0.1}, "training": {}, "responses": {"input_form": "clips"}}
    short = make_plan(parse_config(settings)).longest
    settings["pairs"] = {"import_from": "pairs.jsonl"}
    assert make_plan(parse_config(settings)).longest.lengths[0] > short.lengths[0]


def test_a_longer_row_than_max_tokens_and_a_large_batch_are_named(settings):
    settings |= {"captions": {"batch_size": 64}, "model": {"device": "cpu"}}
    settings["training"]["max_tokens"] = 1000
    first, *_, last, _ = make_plan(parse_config(settings), device_bytes=10**8).steps()
    assert first.advice.startswith("captions.batch_size = ")
    assert last.advice.startswith(f"training.max_tokens = {last.num_tokens}")


def test_the_command_names_missing_extras_and_makes_no_directory(tempo, folder, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(f'[videos]\npaths = ["{folder}"]\n[model]\nquantization = "4bit"\ndevice = "cpu"\n')
    code, out, err = tempo("plan", path, "--out", tmp_path / "run" / "new")
    assert (code, err, (tmp_path / "run").exists()) == (0, "", False)
    assert "videos: 3, 0.0 h; about 2 of them, or segments of them, are kept (75%; assumed" in out
    assert ("bitsandbytes" in out) == (importlib.util.find_spec("bitsandbytes") is None)
    for size in ("much", "80"):
        code, _, err = tempo("plan", path, "--device-memory", size)
        assert (code, f"--device-memory '{size}'" in err) == (2, True)
