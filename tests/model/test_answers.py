"""Where a stage gets its answers: a server where one is configured, and then no local model is loaded."""

import numpy as np
import pytest
from misbehaving_server import Server, echo, error, prompt_of, reply
from rich.console import Console

import tempo.model.loading
from tempo.config import parse_config
from tempo.core.records import Captions, Clip, Clips, Perturbation, Perturbations, Responses, Skipped
from tempo.core.store import SKIPPED, RunStore, write_config
from tempo.engine.types import Context
from tempo.model.answers import Answer, answer_source, failure_drop, without_thoughts
from tempo.model.endpoint import EndpointDown
from tempo.pipeline.runner import map_stage
from tempo.pipeline.stages import STAGES
from tempo.preference import captions
from tempo.video.frames import FrameStore, encode_jpeg

RESPONSES = next(stage for stage in STAGES if stage.name == "responses")
QUIET = Console(quiet=True)


@pytest.fixture
def server(monkeypatch):
    def refuse(config):
        raise AssertionError("a local model is loaded")

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(tempo.model.loading, "load_video_lm", refuse)
    made = Server()
    made.usual = echo
    yield made
    made.stop()


def context(server, directory, **endpoint):
    """A run of somebody's own videos whose answers this server draws."""
    section = {"url": server.url, "model": "m", "retries": 1, "backoff_seconds": 0.01, **endpoint}
    return Context(parse_config({"videos": {"paths": ["x"]}, "endpoint": section}), directory)


def perturbations(video_id):
    """A video of three clips and one perturbation."""
    turned = Perturbation(
        kind="reverse", level=2, order=(2, 1, 0), num_clips=3, kept_share=1.0, kendall_distance=1.0
    )
    return Perturbations(id=video_id, num_clips=3, perturbations=(turned,))


@pytest.fixture
def run(tmp_path):
    """A run directory that is ready for the responses to three videos."""
    store = RunStore(tmp_path)
    rows = [Captions(id=i, captions=(f"{i} one.", f"{i} two.", f"{i} three.")) for i in "abc"]
    store.append("captions", rows)
    store.append("perturbations", [perturbations(i) for i in "abc"])
    return store


def failing_for(words, status):
    """Answers everything but prompts with these words."""
    return lambda handler, body: (error(status, "no") if words in prompt_of(body) else echo)(handler, body)


def test_responses_come_from_the_server(server, run):
    map_stage(RESPONSES, context(server, run.directory), QUIET)
    rows = run.read("responses", Responses)
    assert [row.id for row in rows] == ["a", "b", "c"]
    assert all("1. a one." in row.chosen and "1. a three." in row.rejected[0].text for row in rows[:1])
    assert run.read(SKIPPED, Skipped) == []


@pytest.mark.parametrize("status", [400, 500])
def test_video_that_the_server_fails_is_dropped_by_name_and_the_others_stay(server, run, status):
    server.usual = failing_for("1. b three.", status)
    map_stage(RESPONSES, context(server, run.directory), QUIET)
    assert [row.id for row in run.read("responses", Responses)] == ["a", "c"]
    (drop,) = run.read(SKIPPED, Skipped)
    assert (drop.stage, drop.id, drop.reason) == ("responses", "b", "endpoint")
    assert f"1 of 2 requests failed: HTTP {status}: no" in drop.detail


def test_server_that_is_down_drops_nothing_and_the_run_goes_on_later(server, run):
    server.usual = server.alive = error(503)
    with pytest.raises(EndpointDown):
        map_stage(RESPONSES, context(server, run.directory), QUIET)
    assert run.read("responses", Responses) == []
    assert run.read(SKIPPED, Skipped) == []
    server.usual = echo
    map_stage(RESPONSES, context(server, run.directory), QUIET)
    assert len(run.read("responses", Responses)) == 3


def test_cut_answer_of_a_server_is_no_answer(server, run):
    server.usual = reply("half a sente", "length")
    map_stage(RESPONSES, context(server, run.directory), QUIET)
    assert {drop.reason for drop in run.read(SKIPPED, Skipped)} == {"no chosen answer"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>A ring.\n\nIt turns.</think>\n\nA ring turns.", Answer("A ring turns.", True)),
        (" <think>\n\n</think>A ring turns.", Answer("A ring turns.", True)),
        # The template of the prompt ends in "<think>".
        ("A ring, I see.\n</think>\nA ring turns.", Answer("A ring turns.", True)),
        ("<think>A ring.</think>", Answer("", True)),
        ("<think>A ring. Or is it", Answer("", False)),
        ("I think a ring turns.", Answer("I think a ring turns.", True)),
        ("A sign says <think> twice.", Answer("A sign says <think> twice.", True)),
    ],
)
def test_thoughts_are_no_answer(text, expected):
    assert without_thoughts(Answer(text, True)) == expected


def test_an_answer_that_is_cut_after_its_thoughts_stays_cut():
    assert without_thoughts(Answer("<think>x</think>A ri", False)) == Answer("A ri", False)


def test_responses_of_a_reasoning_model_are_bare_of_its_thoughts(server, run):
    server.usual = reply("<think>They want one paragraph.</think>\n\nA ring turns.")
    map_stage(RESPONSES, context(server, run.directory), QUIET)
    rows = run.read("responses", Responses)
    assert [(row.chosen, row.rejected[0].text) for row in rows] == [("A ring turns.", "A ring turns.")] * 3


@pytest.mark.parametrize(
    ("said", "reason"), [("<think>Hm.</think>", "empty"), ("<think>Hm.", "cut at responses.max_new_tokens")]
)
def test_thoughts_without_an_answer_drop_the_video(server, run, said, reason):
    server.usual = reply(said)
    map_stage(RESPONSES, context(server, run.directory), QUIET)
    assert run.read("responses", Responses) == []
    drops = run.read(SKIPPED, Skipped)
    assert {(drop.reason, drop.detail) for drop in drops} == {("no chosen answer", reason)}


def test_captions_of_a_reasoning_model_are_bare_of_its_thoughts(server, clips, tmp_path):
    server.usual = reply(
        "<think>The last part is the caption: a ring?</think>It turns. Caption: A ring turns."
    )
    (row,) = captions.make_worker(context(server, tmp_path))([clips])
    assert row.captions == ("A ring turns.", "A ring turns.")
    server.usual = reply("<think>Caption: A ring turns")
    (drop,) = captions.make_worker(context(server, tmp_path, model="n"))([clips])
    assert (drop.reason, drop.detail) == ("no caption", "clip 0 of 2: cut at captions.max_new_tokens")


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


def test_captions_come_from_the_server_which_sees_the_key_frames(server, clips, tmp_path):
    server.usual = reply("It turns. Caption: A ring turns.")
    (row,) = captions.make_worker(context(server, tmp_path))([clips])
    assert row.captions[1] == "A ring turns."
    assert sorted(str(body).count("image_url':") for body in server.bodies) == [2, 4]


def test_empty_caption_of_a_server_is_asked_for_again_and_a_failed_one_is_not(server, clips, tmp_path):
    server.tricks.append(reply(""))
    server.usual = reply("Caption: A ring turns.")
    (row,) = captions.make_worker(context(server, tmp_path, concurrency=1))([clips])
    assert row.captions == ("A ring turns.", "A ring turns.")
    assert len(server.prompts) == 3

    server.usual = error(400, "too large")
    (row,) = captions.make_worker(context(server, tmp_path, model="n"))([clips])
    assert (row.reason, row.stage) == ("endpoint", "captions")
    assert len(server.prompts) == 5


def test_without_a_server_the_model_itself_answers(server, tmp_path):
    config = parse_config({"videos": {"paths": ["x"]}})
    with pytest.raises(AssertionError, match="a local model is loaded"):
        answer_source(Context(config, tmp_path))


def test_what_failed_is_counted_and_its_first_reason_told():
    good, bad = Answer("x", True), Answer("", False, "HTTP 400: no")
    assert failure_drop([good, None], stage="s", id="i") is None
    assert failure_drop([good, bad, None, bad], stage="s", id="i") == Skipped(
        stage="s", id="i", reason="endpoint", detail="2 of 4 requests failed: HTTP 400: no"
    )


def test_key_is_written_nowhere_in_a_run(server, run, monkeypatch):
    monkeypatch.setenv("TEMPO_KEY", "sk-secret")
    server.usual = failing_for("1. b three.", 400)
    here = context(server, run.directory, api_key_env="TEMPO_KEY")
    write_config(run.directory, here.config.model_dump(mode="json", exclude_none=True))
    map_stage(RESPONSES, here, QUIET)
    texts = {path.name: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert {"config.toml", "answers.jsonl", "skipped.jsonl"} <= texts.keys()
    assert not [name for name, text in texts.items() if b"sk-secret" in text]
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
