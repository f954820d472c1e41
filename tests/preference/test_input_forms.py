"""The input forms through the pipeline: what is captioned, what is stale, what a restart changes."""

from __future__ import annotations

import pytest
from rich.console import Console

from tempo.config import parse_config
from tempo.core.records import Clips, Pair, Perturbations, Responses, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints, stale_stages
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import NAMES

QUIET = Console(quiet=True)


def config(**sections):
    world = {"num_videos": 2, "num_held_out": 1, "min_shots": 4, "max_shots": 4, "plain_share": 0}
    small = {"synthetic": world, "frames": {"max_pixels": 4096}, "run": {"num_workers": 1}}
    return parse_config(small | {"perturbations": {"levels": [2]}} | sections)


def looking(form):
    return config(responses={"input_form": form, "max_new_tokens": 96})


def pairs_and_reasons(directory):
    """Ids of pairs, and of pairs that were not made."""
    store = RunStore(directory)
    dropped = {row.id for row in store.read("skipped", Skipped) if row.stage == "pairs"}
    return {row.id for row in store.read("pairs", Pair)}, dropped


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A run up to its clips."""
    made = tmp_path_factory.mktemp("out") / "run"
    run_stages(Context(config(), made), QUIET, until="clips")
    return made


@pytest.mark.parametrize("form", ["clips", "video"])
def test_the_model_looks_again_and_nothing_is_captioned(directory, form):
    context = Context(looking(form), directory)
    run_stages(context, QUIET, until="responses", redo=True)
    store = RunStore(directory)
    videos = {row.id for row in store.read("clips", Clips)}
    answered = {row.id for row in store.read("responses", Responses)}
    dropped = {row.id: row.reason for row in store.read("skipped", Skipped) if row.stage == "responses"}
    assert videos
    assert videos == answered | dropped.keys()
    assert answered
    assert set(dropped.values()) <= {"no chosen answer", "no rejected answer"}
    assert not store.path("captions").exists()
    whole = store.path("responses").read_bytes()
    # As a kill after all rows but the last would leave it.
    (directory / "done" / "responses.json").unlink()
    store.path("responses").write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    run_stages(context, QUIET, until="responses")
    assert store.path("responses").read_bytes() == whole


def test_every_perturbation_of_an_answered_video_ends_as_a_pair_or_with_a_reason(directory):
    run_stages(Context(looking("video"), directory), QUIET, until="pairs", redo=True)
    store = RunStore(directory)
    answered = {row.id for row in store.read("responses", Responses)}
    made, dropped = pairs_and_reasons(directory)
    asked = {
        f"{row.id}/{p.kind}-{p.level:02d}"
        for row in store.read("perturbations", Perturbations)
        for p in row.perturbations
        if row.id in answered
    }
    assert asked == made | dropped
    assert not made & dropped


def test_the_captions_stage_alone_has_nothing_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"'captions' has nothing to do: responses\.input_form is 'clips'"):
        run_stages(Context(looking("clips"), tmp_path), QUIET, only="captions")


@pytest.mark.parametrize("form", ["clips", "video"])
def test_another_input_form_makes_perturbations_and_what_follows_stale(form):
    old, new = fingerprints(config(responses={"max_new_tokens": 96})), fingerprints(looking(form))
    assert [name for name in NAMES if old[name] != new[name]] == list(NAMES[NAMES.index("perturbations") :])


def test_rows_of_two_input_forms_are_never_mixed(directory):
    run_stages(Context(looking("clips"), directory), QUIET, until="perturbations", redo=True)
    assert "perturbations" in stale_stages(config(), RunStore(directory))
    with pytest.raises(ValueError, match=r"responses\.input_form"):
        run_stages(Context(config(), directory), QUIET, until="perturbations")
