"""Answers in the stages that ask for them, and that with a server no local model is loaded."""

import numpy as np
import pytest
from chat_server import Server, echo, error, only_for, reply
from rich.console import Console

from tempo.config import parse_config
from tempo.core.records import Captions, Clip, Clips, Perturbation, Perturbations, Responses, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.model.answers import Answer, skip_if_failed, without_reasoning
from tempo.model.endpoint import EndpointDown
from tempo.pipeline.runner import map_stage
from tempo.pipeline.stages import find_stage
from tempo.preference import captions
from tempo.video.frames import FrameStore, encode_jpeg


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>A ring.\n\nIt turns.</think>\n\nA ring turns.", Answer("A ring turns.", True)),
        (" <think>\n\n</think>A ring turns.", Answer("A ring turns.", True)),
        # The chat template ends the prompt with "<think>".
        ("A ring, I see.\n</think>\nA ring turns.", Answer("A ring turns.", True)),
        ("<think>A ring.</think>", Answer("", True)),
        ("<think>A ring. Or is it", Answer("", False)),
        ("I think a ring turns.", Answer("I think a ring turns.", True)),
        ("A sign says <think> twice.", Answer("A sign says <think> twice.", True)),
    ],
)
def test_reasoning_is_not_part_of_an_answer(text, expected):
    assert without_reasoning(Answer(text, True)) == expected


def test_failures_are_counted_with_the_first_reason():
    good, bad = Answer("x", True), Answer("", False, "HTTP 400: no")
    assert skip_if_failed([good, None], stage="s", id="i") is None
    assert skip_if_failed([good, bad, None, bad], stage="s", id="i") == Skipped(
        stage="s", id="i", reason="endpoint", detail="2 of 4 requests failed: HTTP 400: no"
    )


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    made.usual = echo
    yield made
    made.stop()


def context(server, directory, **endpoint):
    """A run whose answers come from the server; its own model does not exist."""
    sections = {"videos": {"paths": ["x"]}, "model": {"path": "/no/such/model"}}
    section = {"url": server.url, "model": "m", "max_retries": 1, **endpoint}
    return Context(parse_config({**sections, "endpoint": section}), directory)


@pytest.fixture
def run(tmp_path):
    """A run directory that is ready for the responses to three videos of three clips."""
    store = RunStore(tmp_path)
    rows = [Captions(id=i, captions=(f"{i} one.", f"{i} two.", f"{i} three.")) for i in "abc"]
    reverse = Perturbation(
        kind="reverse", level=2, order=(2, 1, 0), num_clips=3, kept_share=1.0, kendall_distance=1.0
    )
    store.append("captions", rows)
    store.append("perturbations", [Perturbations(id=i, num_clips=3, perturbations=(reverse,)) for i in "abc"])
    return store


def respond(server, run, **endpoint):
    """Responses and skipped records of the stage."""
    map_stage(find_stage("responses"), context(server, run.directory, **endpoint), Console(quiet=True))
    return run.read("responses", Responses), run.read(SKIPPED, Skipped)


@pytest.mark.parametrize("status", [400, 500])
def test_a_failed_request_skips_one_video_with_the_reason(server, run, status):
    server.usual = only_for("1. b three.", error(status, "no"))
    rows, (skipped,) = respond(server, run)
    assert [row.id for row in rows] == ["a", "c"]
    assert (skipped.stage, skipped.id, skipped.reason) == ("responses", "b", "endpoint")
    assert f"1 of 2 requests failed: HTTP {status}: no" in skipped.detail


def test_a_server_that_is_down_skips_no_video_and_the_run_continues_later(server, run):
    server.usual = server.alive = error(401)
    with pytest.raises(EndpointDown):
        respond(server, run)
    assert (run.read("responses", Responses), run.read(SKIPPED, Skipped)) == ([], [])
    server.usual = echo
    assert len(respond(server, run)[0]) == 3


@pytest.fixture
def clips(tmp_path):
    """A video of two clips with its key frames stored."""
    jpegs = [encode_jpeg(np.full((8, 8, 3), 50 * i, np.uint8), 100) for i in range(4)]
    FrameStore(tmp_path / "frames").write("v", jpegs, seconds=range(4), fps=1.0, key_frames=jpegs)
    parts = [
        Clip(
            group=i, first_shot=i, num_shots=1, start_seconds=2 * i, end_seconds=2 * i + 2, key_frames=(8, 16)
        )
        for i in range(2)
    ]
    return Clips(id="v", path="v.mp4", duration_seconds=4.0, clips=tuple(parts))


def test_captions_come_from_the_server_with_the_key_frames(server, clips, tmp_path):
    server.usual = reply("<think>Caption: a ring?</think>It turns. Caption: A ring turns.")
    (row,) = captions.make_worker(context(server, tmp_path))([clips])
    assert row.captions == ("A ring turns.", "A ring turns.")
    assert sorted(str(body).count("image_url':") for body in server.bodies) == [2, 4]


def test_without_a_server_the_model_itself_is_loaded(tmp_path):
    config = parse_config({"videos": {"paths": ["x"]}, "model": {"path": "/no/such/model"}})
    with pytest.raises(ValueError, match=r"model\.path '/no/such/model' does not exist"):
        captions.make_worker(Context(config, tmp_path))
