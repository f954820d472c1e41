"""The list of phases: what each starts from, what its reference is, and that a stop loses nothing."""

import itertools
import json

import pytest
from training_material import Stopped, stop_after, write_frames

from tempo.config import Config
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.training.phases import Session, run_training


@pytest.fixture
def directory(tmp_path):
    """A run with pairs and frames of two videos."""
    write_frames(tmp_path, [2, 2])
    pair = {"prompt": "Describe the video in detail.", "rejected": "No.", "order": (0,), "num_clips": 4}
    for number, level in itertools.product(range(2), (2, 16)):
        ids = {"id": f"v{number}/drop-{level:02d}", "video_id": f"v{number}", "video": f"v{number}.mp4"}
        label = {"kind": "drop", "level": level, "chosen": f"A red circle {number} moves left."}
        RunStore(tmp_path).append("pairs", [Pair(**ids, **label, **pair)])
    return tmp_path


def phase(name, level, **changes):
    settings = {"name": name, "objective": "dpo", "levels": [level], "learning_rate": 2e-3, "lora_rank": 4}
    return settings | {"lora_alpha": 8, "epochs": 3, "batch_size": 1} | changes


def train(directory, *phases, **session):
    training = {"phases": phases, "checkpoint_minutes": 0}
    config = Config.model_validate({"videos": {"paths": ["x"]}, "training": training})
    run_training(Session(Context(config, directory), **session))
    rows = {}
    for path in sorted((directory / "train").glob("*/metrics.jsonl")):
        rows[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def test_phases_without_data_are_skipped_with_a_message(directory):
    assert train(directory) == {}
    assert not (directory / "model").exists()
    logged = []
    assert list(train(directory, phase("none", 8), phase("easy", 16), log=logged.append)) == ["02-easy"]
    assert logged[:1] == ["training: phase 'none' is skipped: no pair has its levels and kinds"]
    with pytest.raises(ValueError, match=r"no pair to train on\. `tempo status`"):
        train(directory, phase("none", 8))


def test_the_reference_is_the_first_model_if_fixed_else_the_one_before_the_phase(directory):
    caches = {"cache_reference": True, "cache_features": True}
    phases = [phase("easy", 16), phase("fixed", 2, reference="fixed"), phase("reset", 2, **caches)]
    rows = train(directory, *phases)
    assert abs(rows["02-fixed"][0]["rewards/chosen"]) > 0.01
    assert rows["03-reset"][0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)
    assert len(list((directory / "train" / "reference").iterdir())) == 2
    assert (directory / "train" / "features").is_dir()


def test_a_stop_in_the_middle_of_a_phase_resumes_there(directory):
    phases, hard = [phase("easy", 16, epochs=1), phase("hard", 2)], directory / "train" / "02-hard"
    with pytest.raises(Stopped):
        train(directory, *phases, progress=stop_after(4))
    stopped = (hard / "metrics.jsonl").read_text().splitlines()
    # A kill while a state is written leaves a temporary file.
    (hard / ".state.safetensors.tmp").touch()
    seen = []
    rows = train(directory, *phases, progress=lambda place, step, steps, row: seen.append((place, step)))
    # Step 4 was taken but not saved.
    assert seen == [(hard, step) for step in (4, 5, 6)]
    assert [json.loads(line) for line in stopped[:3]] == rows["02-hard"][:3]
    assert sorted(path.name for path in hard.iterdir()) == ["done.json", "metrics.jsonl", "model"]
    assert (directory / "model" / "model.safetensors").exists()
