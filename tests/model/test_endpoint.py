"""Answers over HTTP: what is sent, what counts as an answer, what fails, what is cached, and whole runs."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from chat_server import Server, completion, echo, error, hang, only_for, raw, reply, reset

import tempo
from tempo.config import EndpointConfig, SamplingConfig, parse_config
from tempo.core.files import whole_lines
from tempo.core.records import Captions, Clips, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.model.answers import Answer, Request
from tempo.model.endpoint import CACHE, Endpoint

GOOD = Answer("An answer.", is_whole=True)
KEY = "sk-Very_secret+123"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # The key of another service, which must not be sent to this one.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("SOME_KEY", f"{KEY}\n")


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def ask(server, tmp_path):
    """A function that sends prompts with a new Endpoint over the same run directory."""

    def run(*prompts, sampling=None, max_new_tokens=50, frames=None, **config):
        requests = [Request(prompt, seed, frames) for seed, prompt in enumerate(prompts)]
        made = Endpoint(settings(config.pop("url", server.url), **config), tmp_path)
        return made.generate(requests, sampling=sampling or SamplingConfig(), max_new_tokens=max_new_tokens)

    return run


def settings(url, **config):
    return EndpointConfig(**{"url": url, "model": "m", "timeout_seconds": 20, "max_retries": 1, **config})


# What is sent


def test_answers_come_in_the_order_of_the_requests_with_limited_concurrency(server, ask):
    server.usual = lambda handler, body: (time.sleep(0.02 + random.random() / 20), echo(handler, body))
    answers = ask(*(f"question {i}" for i in range(40)), concurrency=3)
    assert [answer.text for answer in answers] == [f"question {i} {i}" for i in range(40)]
    assert server.most_busy == 3


def test_frames_are_sent_as_lossless_images_in_order(server, ask):
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    assert ask("What happens?", frames=frames) == [GOOD]
    *images, text = server.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What happens?"}
    for frame, part in zip(frames, images, strict=True):
        head, data = part["image_url"]["url"].split(",")
        assert (part["type"], head) == ("image_url", "data:image/png;base64")
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), frame)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("vllm", {"repetition_penalty": 1.2, "top_k": -1, "min_p": 0.0}),
        ("sglang", {"repetition_penalty": 1.2, "top_k": -1, "min_p": 0.0}),
        ("lmdeploy", {"repetition_penalty": 1.2, "top_k": 0, "min_p": 0.0}),
        (
            "transformers",
            {"generation_config": json.dumps({"do_sample": True, "top_k": 0, "repetition_penalty": 1.2})},
        ),
        ("other", {}),
    ],
)
def test_each_kind_of_server_is_sent_the_fields_that_it_accepts(server, ask, kind, expected):
    ask("x", server=kind, sampling=SamplingConfig(temperature=0.5, repetition_penalty=1.2))
    common = {"model": "m", "max_tokens": 50, "temperature": 0.5, "top_p": 1.0, "seed": 0}
    assert server.bodies == [common | {"messages": [{"role": "user", "content": "x"}]} | expected]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("Then <|im_end|> and <|video_pad|>.", "Then < |im_end|> and < |video_pad|>."),
        ("<video><image></s><start_of_turn>", "< video>< image>< /s>< start_of_turn>"),
        ("[INST] <<SYS>> [/INST] [gMASK] [PAD]", "[ INST] << SYS>> [ /INST] [ gMASK] [ PAD]"),
        ("<IMG_CONTEXT> <fake_token_around_image>", "< IMG_CONTEXT> < fake_token_around_image>"),
        ("1 < 2 > 0, a <- b, [music] [a, b], [X] > [3]", "1 < 2 > 0, a <- b, [music] [a, b], [X] > [3]"),
        ("half \ud83d of it", "half \ufffd of it"),
    ],
)
def test_no_word_of_a_prompt_reaches_the_server_as_a_special_token(server, ask, text, sent):
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    assert ask(text) == ask(text, frames=frames) == ask(text) == [GOOD]
    assert server.prompts == [sent, sent]


# What counts as an answer, and what fails


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (completion(" Spaces. \n"), Answer("Spaces.", True)),
        (completion("<think>A ring?</think>\n\nA ring."), Answer("A ring.", True)),
        (completion("cut", "length"), Answer("cut", False)),
        (completion(None, "tool_calls"), Answer("", False)),
        (completion("half \ud800 of it"), Answer("half \ufffd of it", True)),
    ],
)
def test_a_reply_is_read(server, ask, data, expected):
    server.tricks.append(raw(json.dumps(data).encode()))
    assert ask("x") == [expected]
    # Also from the cache.
    assert ask("x") == [expected]


@pytest.mark.parametrize("trick", [error(500), error(503), error(429), error(408), reset])
def test_a_temporary_failure_is_retried(server, ask, trick):
    server.tricks.append(trick)
    assert ask("x") == [GOOD]
    assert server.prompts == ["x"] * 2


@pytest.mark.parametrize(
    ("trick", "reason", "num_attempts"),
    [
        (error(400, "the prompt is too long"), "Error code: 400 - the prompt is too long", 1),
        (error(400, "half \ud83d of it"), "half \ufffd of it", 1),
        (error(500, "out of memory"), "Error code: 500 - out of memory", 2),
        (reset, "Error", 2),
        (hang, "no answer within endpoint.timeout_seconds = 0.7", 1),
        (raw(b"<html>busy", Content_Type="text/html"), "not a chat completion", 1),
        (raw(b'{"choices": []}'), "not a chat completion", 1),
        (raw(json.dumps(completion(3)).encode()), "not a chat completion", 1),
        (raw(b"zipped", Content_Encoding="gzip"), "Error", None),
        (error(429, "quota", Retry_After="7200"), "429 - quota", 1),
    ],
)  # fmt: skip
def test_a_request_fails_alone_with_the_reason_and_is_not_cached(server, ask, trick, reason, num_attempts):
    server.usual = only_for("bad", trick)
    good, bad, other = ask("good", "bad", "other", timeout_seconds=0.7 if trick is hang else 20)
    assert (good.text, other.text) == ("good 0", "other 2")
    assert (bad.text, bad.is_whole) == ("", False)
    assert reason in bad.failure
    assert server.prompts.count("bad") == num_attempts or num_attempts is None
    server.usual = echo
    assert ask("bad") == [Answer("bad 0", True)]


#: Nothing listens on port 1.
CLOSED = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("trick", "url", "reason"),
    [
        (error(401, "wrong key"), None, "401 - wrong key"),
        (raw(b"", status=307, Location="http://elsewhere.invalid/"), None, "Error"),
        (reset, None, "Error"),
        (hang, None, "no answer within"),
        (echo, CLOSED, "Error"),
        (echo, "http://no.such.host.invalid/v1", "Error"),
        (echo, "http://a..b/v1", "Error"),
    ],
)
def test_a_server_that_answers_nothing_stops_the_run_with_one_message(server, ask, trick, url, reason):
    server.usual = server.alive = trick
    expected = f"^endpoint: http://.* model 'm': .*{reason}.*answers so far are kept.*same command"
    with pytest.raises(ValueError, match=expected):
        ask(*map(str, range(8)), url=url or server.url, timeout_seconds=0.7 if trick is hang else 20)


def test_a_server_without_vision_stops_the_run_before_a_video_is_skipped(server, ask):
    """It refuses every image, so it refuses that of the trivial request too."""
    server.usual = server.alive = lambda handler, body: (
        error(400, "not multimodal") if "image_url" in str(body) else echo
    )(handler, body)
    with pytest.raises(ValueError, match="not multimodal"):
        ask("x", frames=np.zeros((2, 8, 8, 3), np.uint8))
    assert ask("x")[0].text == "x 0"


# The cache


def test_a_restart_asks_nothing_again(server, ask, tmp_path):
    server.tricks.extend([echo, reply("cut", "length"), reply("")])
    first = ask("a", "b", "c", concurrency=1)
    assert ask("a", "b", "c", max_retries=5, url=CLOSED) == first
    (tmp_path / CACHE).write_bytes((tmp_path / CACHE).read_bytes()[:-7])
    assert ask("a", "b") == first[:2]
    # A kill cut the last line: that answer alone is asked for again.
    server.tricks.append(reply(""))
    assert ask("a", "b", "c") == ask("a", "b", "c") == first
    assert server.prompts == ["a", "b", "c", "c"]


def test_another_model_sampling_frame_or_seed_is_another_request(server, ask):
    frames = [np.full((1, 8, 8, 3), level, np.uint8) for level in (1, 2)]
    changes = [{"model": "n"}, {"server": "sglang", "sampling": SamplingConfig(repetition_penalty=1.3)}]
    changes += [{"sampling": SamplingConfig(temperature=0.1)}, {"max_new_tokens": 51}]
    for change in [{}, *changes, *({"frames": frame} for frame in frames)] * 2:
        ask("a", **change)
    assert len(server.bodies) == 7
    ask("a", "a")
    assert [body["seed"] for body in server.bodies[6:]] == [0, 1]


def test_seeds_have_31_bits(server, tmp_path):
    requests, made = [Request("x", 2**62 + 6)], Endpoint(settings(server.url), tmp_path)
    made.generate(requests, sampling=SamplingConfig(), max_new_tokens=5)
    assert [body["seed"] for body in server.bodies] == [6]


# The API key


def test_the_key_comes_from_the_named_variable_which_must_be_set(server, ask, monkeypatch):
    ask("x", api_key_env="SOME_KEY")
    ask("y")
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {KEY}", "Bearer EMPTY"]
    monkeypatch.setenv("SOME_KEY", "  ")
    with pytest.raises(ValueError, match=r"endpoint\.api_key_env.*SOME_KEY is not set"):
        ask("z", api_key_env="SOME_KEY")
    assert len(server.bodies) == 2


# Whole runs


def test_a_run_skips_no_video_while_the_server_is_down_and_never_writes_the_key(server, tmp_path, caplog):
    """When the server is up again, the same command continues, and a failed request skips one video."""
    caplog.set_level("DEBUG")
    sections = {"run": {"num_workers": 1}, "frames": {"max_pixels": 4096}}
    sections["synthetic"] = {"num_videos": 3, "num_held_out": 1, "min_shots": 4, "max_shots": 4}
    endpoint = {"url": server.url, "model": "m", "max_retries": 0, "api_key_env": "SOME_KEY"}
    config, store = parse_config({**sections, "endpoint": endpoint}), RunStore(tmp_path)
    server.usual = server.alive = error(401, f"wrong key {KEY * 50}")
    with pytest.raises(ValueError, match=r"endpoint: .*wrong key \*\*\*") as caught:
        tempo.run(config, tmp_path, until="captions")
    assert KEY not in str(caught.value)
    left = {row.id for row in store.read("clips", Clips)}
    server.usual = server.alive = reply("<think>Caption: a ring?</think>It turns. Caption: A ring turns.")
    server.tricks.append(error(400, f"not for {KEY}"))
    tempo.run(config, tmp_path, until="captions")
    (skipped,) = (row for row in store.read(SKIPPED, Skipped) if row.stage == "captions")
    assert (skipped.id in left, skipped.reason) == (True, "endpoint")
    assert skipped.detail.startswith("1 of 4 requests failed: ")
    assert "not for ***" in skipped.detail
    found = {row.id: set(row.captions) for row in store.read("captions", Captions)}
    assert found == {id: {"A ring turns."} for id in left - {skipped.id}}
    # The key frames of one clip or of two.
    assert {str(body).count("image_url':") for body in server.bodies if "Say" not in str(body)} == {2, 4}
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in caplog.text


REQUESTS = """
import sys
from pathlib import Path
from tempo.cli.terminal import terminable
from tempo.config import EndpointConfig, SamplingConfig
from tempo.model.answers import Request
from tempo.model.endpoint import Endpoint
made = Endpoint(EndpointConfig(url=sys.argv[1], model="m"), Path(sys.argv[2]))
with terminable():
    made.generate([Request(str(i), i) for i in range(30)], sampling=SamplingConfig(), max_new_tokens=5)
"""


@pytest.mark.parametrize(
    ("number", "shown"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")]
)
def test_a_signal_during_requests_ends_the_run_and_keeps_the_answers(server, tmp_path, number, shown):
    server.tricks.extend([echo, echo])
    server.usual = hang
    process = subprocess.Popen(
        [sys.executable, "-c", REQUESTS, server.url, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        # A shell starts tests in the background with Ctrl-C ignored, which child processes inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while len([*whole_lines(tmp_path / CACHE)]) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    started = time.monotonic()
    _, output = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert shown in output
    assert len([*whole_lines(tmp_path / CACHE)]) == 2
