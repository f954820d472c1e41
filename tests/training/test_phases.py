"""The list of phases: what each starts from, what its reference is, and that a stop loses nothing."""

import json
import resource

import numpy as np
import pytest
import tomli_w

from tempo.config import Config, load_config
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.pipeline.stages import NAMES
from tempo.training.phases import Session, run_training
from tempo.video.frames import FrameStore, encode_jpeg


def pair(number, level):
    return Pair(
        id=f"v{number}/drop-{level:02d}",
        video_id=f"v{number}",
        video=f"v{number}.mp4",
        prompt="Describe the video in detail.",
        chosen=f"A red circle {number} moves left.",
        rejected="No.",
        kind="drop",
        level=level,
        order=(0,),
        num_clips=4,
    )


@pytest.fixture
def directory(tmp_path):
    """A run whose pairs and frames are there."""
    store = FrameStore(tmp_path / "frames")
    for number in range(2):
        pictures = np.random.default_rng(number).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
        store.write(f"v{number}", [encode_jpeg(p, 95) for p in pictures], seconds=[0.5, 1.5], fps=1.0)
    RunStore(tmp_path).append("pairs", [pair(n, level) for n in range(2) for level in (2, 16)])
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


def test_a_run_without_phases_trains_nothing_and_logs_it(directory):
    logged = []
    assert train(directory, log=logged.append) == {}
    (text,) = logged
    assert text.startswith("training: there are no [[training.phases]]")
    assert not (directory / "model").exists()


def test_a_fixed_reference_is_the_model_before_the_first_phase(directory):
    rows = train(directory, phase("easy", 16), phase("hard", 2, reference="fixed"))
    # The policy comes from the first phase, so that it differs from the reference at the first step.
    assert abs(rows["02-hard"][0]["rewards/chosen"]) > 0.01
    assert len(list((directory / "train" / "reference").iterdir())) == 1


def test_a_reset_reference_is_the_policy_when_the_phase_begins(directory):
    rows = train(directory, phase("easy", 16), phase("hard", 2, cache_reference=True, cache_features=True))
    assert rows["02-hard"][0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)
    assert (directory / "train" / "features").is_dir()


class Stopped(Exception):
    """Stands for a kill."""


def test_a_stop_in_the_middle_of_a_phase_resumes_there(directory):
    def progress(place, step, steps, row):
        if (place, step) == ("train/02-hard", 4):
            raise Stopped

    phases = [phase("easy", 16), phase("hard", 2)]
    with pytest.raises(Stopped):
        train(directory, *phases, progress=progress)
    stopped = (directory / "train" / "02-hard" / "metrics.jsonl").read_text().splitlines()
    seen = []
    rows = train(directory, *phases, progress=lambda place, step, steps, row: seen.append((place, step)))
    # Step 4 was taken but not saved.
    assert seen == [("train/02-hard", step) for step in (4, 5, 6)]
    assert [json.loads(line) for line in stopped[:3]] == rows["02-hard"][:3]
    assert not (directory / "train" / "02-hard" / "state").exists()
    assert (directory / "model" / "model.safetensors").exists()


def test_a_wrong_attention_stops_the_run_before_it_trains(directory, monkeypatch):
    from tempo.training import phases

    def refuse(lm, group):
        raise ValueError("gives other log-probabilities")

    monkeypatch.setattr(phases, "self_check", refuse)
    with pytest.raises(ValueError, match="other log-probabilities"):
        train(directory, phase("easy", 16))
    assert not (directory / "train" / "01-easy" / "metrics.jsonl").exists()


def test_a_phase_without_pairs_is_skipped_with_a_message(directory):
    logged = []
    rows = train(directory, phase("none", 8), phase("easy", 16), log=logged.append)
    assert list(rows) == ["02-easy"]
    assert logged == ["training: phase 'none' is skipped, because no pair has levels [8]"]


def test_a_run_whose_phases_have_no_pair_is_refused(directory):
    with pytest.raises(ValueError, match=r"no pair to train on\. `tempo status`"):
        train(directory, phase("none", 8))


@pytest.fixture
def limit_files():
    """A function that limits the size of the files that this process writes; lifted again at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_at_a_checkpoint_is_one_message_and_training_goes_on_later(
    directory, tempo, limit_files
):
    """safetensors raises an error of its own, which is not an OSError."""
    config, store = directory / "small.toml", RunStore(directory)
    training = {"phases": [phase("easy", 16)], "checkpoint_minutes": 0.0}
    config.write_text(tomli_w.dumps({"videos": {"paths": [str(directory)]}, "training": training}))
    marks = fingerprints(load_config(config))
    for name in NAMES[1 : NAMES.index("training")]:
        store.finish(name, marks[name])
    limit_files(50_000)
    code, _, err = tempo("training", config, "--out", directory)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: the disk is full")
    assert "os error" in err
    limit_files(resource.RLIM_INFINITY)
    assert tempo("training", config, "--out", directory)[0] == 0
    assert (directory / "model" / "model.safetensors").exists()
