"""Answers over HTTP: what is sent, what counts as an answer, what fails, and what is cached."""

import base64
import json
import random
import socket
import time

import cv2
import numpy as np
import pytest
from chat_server import (
    Server,
    completion,
    echo,
    error,
    hang,
    only_for,
    raw,
    reply,
    reset,
)

from tempo.config import EndpointConfig, SamplingConfig
from tempo.model.answers import Answer, Request
from tempo.model.endpoint import CACHE, Endpoint, EndpointDown

GOOD = Answer("An answer.", is_whole=True)
KEY = "sk-Very_secret+123"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Of another service: it must not be sent to this one.
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


def test_answers_come_in_the_order_of_the_requests(server, ask):
    server.usual = lambda handler, body: (time.sleep(random.random() / 20), echo(handler, body))
    prompts = [f"question {i}" for i in range(40)]
    assert [answer.text for answer in ask(*prompts)] == [f"question {i} {i}" for i in range(40)]


def test_a_text_is_sent_as_a_string(server, ask):
    ask("Merge these.", max_new_tokens=77)
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "Merge these."}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 77, 0.7)


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
    sent = {key: value for key, value in server.bodies[0].items() if key != "messages"}
    assert sent == common | expected


def test_concurrency_limits_the_requests_in_flight(server, ask):
    server.usual = lambda handler, body: (time.sleep(0.05), echo(handler, body))
    ask(*map(str, range(20)), concurrency=3)
    assert server.most_busy == 3


# What counts as an answer, and what fails


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (completion(" Spaces. \n"), Answer("Spaces.", True)),
        (completion("<think>A ring?</think>\n\nA ring."), Answer("A ring.", True)),
        (completion("cut", "length"), Answer("cut", False)),
        (completion(None, "tool_calls"), Answer("", False)),
        (completion("half \ud800 of it"), Answer("half ? of it", True)),
    ],
)
def test_a_reply_is_read(server, ask, data, expected):
    server.tricks.append(raw(json.dumps(data).encode()))
    assert ask("x") == [expected]
    # Also from the cache.
    assert ask("x") == [expected]


@pytest.mark.parametrize("trick", [error(500), error(503), error(429), error(408), reset])
def test_a_passing_fault_is_retried(server, ask, trick):
    server.tricks.append(trick)
    assert ask("x") == [GOOD]
    assert server.prompts == ["x"] * 2


@pytest.mark.parametrize(
    ("trick", "reason", "num_attempts"),
    [
        (error(400, "the prompt is too long"), "HTTP 400: the prompt is too long", 1),
        (error(500, "out of memory"), "HTTP 500: out of memory", 2),
        (reset, "Error", 2),
        (hang, "no answer within endpoint.timeout_seconds = 0.7", 1),
        (raw(b"<html>busy", Content_Type="text/html"), "not a chat completion", 1),
        (raw(b'{"choices": []}'), "not a chat completion", 1),
        (raw(json.dumps(completion(3)).encode()), "not a chat completion", 1),
        (raw(b"zipped", Content_Encoding="gzip"), "Error", None),
        (error(429, "quota", Retry_After="7200"), "HTTP 429: quota", 1),
    ],
)  # fmt: skip
def test_a_request_fails_alone_with_the_reason(server, ask, trick, reason, num_attempts):
    server.usual = only_for("bad", trick)
    good, bad, other = ask("good", "bad", "other", timeout_seconds=0.7 if trick is hang else 20)
    assert (good.text, other.text) == ("good 0", "other 2")
    assert (bad.text, bad.is_whole) == ("", False)
    assert reason in bad.failure
    assert server.prompts.count("bad") == num_attempts or num_attempts is None


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (error(401, "wrong key"), "HTTP 401: wrong key"),
        (raw(b"", status=307, Location="http://elsewhere.invalid/"), "Error"),
        (reset, "Error"),
        (hang, "no answer within"),
    ],
)
def test_a_server_that_answers_nothing_stops_the_run_with_one_message(server, ask, trick, reason):
    server.usual = server.alive = trick
    with pytest.raises(EndpointDown) as caught:
        ask(*map(str, range(8)), timeout_seconds=0.7 if trick is hang else 20)
    message = str(caught.value)
    assert message.startswith("endpoint: http://127.0.0.1:")
    for words in (reason, "model 'm'", "answers so far are kept", "same command"):
        assert words in message


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@pytest.mark.parametrize("url", [closed_port(), "http://no.such.host.invalid/v1", "http://a..b/v1"])
def test_an_address_without_a_server_stops_the_run(ask, url):
    with pytest.raises(EndpointDown, match=r"endpoint: http://.* does not answer as model 'm': \w+Error"):
        ask("x", url=url)


def test_a_server_without_vision_stops_the_run_before_a_video_is_skipped(server, ask):
    """It refuses every image, so it refuses that of the check too."""
    server.usual = server.alive = lambda handler, body: (
        error(400, "not multimodal") if "image_url" in str(body) else echo
    )(handler, body)
    with pytest.raises(EndpointDown, match="not multimodal"):
        ask("x", frames=np.zeros((2, 8, 8, 3), np.uint8))
    assert ask("x")[0].text == "x 0"


# The cache


def test_answers_are_kept_when_the_server_goes_down(server, ask):
    server.usual = echo
    first = ask("a", "b")
    server.usual = server.alive = error(401)
    with pytest.raises(EndpointDown):
        ask("a", "b", "c")
    server.usual = echo
    assert ask("a", "b", "c")[:2] == first
    assert [server.prompts.count(word) for word in "abc"] == [1, 1, 2]


def test_a_restart_asks_nothing_again(server, ask, tmp_path):
    server.tricks.extend([echo, reply("cut", "length"), reply("")])
    first = ask("a", "b", "c", concurrency=1)
    assert ask("a", "b", "c", max_retries=5, url=closed_port()) == first
    (tmp_path / CACHE).write_bytes((tmp_path / CACHE).read_bytes()[:-7])
    assert ask("a", "b") == first[:2]
    # A kill cut the last line: that answer alone is asked for again.
    server.tricks.append(reply(""))
    assert ask("a", "b", "c") == ask("a", "b", "c") == first
    assert server.prompts == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"server": "sglang", "sampling": SamplingConfig(repetition_penalty=1.3)},
        {"sampling": SamplingConfig(temperature=0.1)},
        {"max_new_tokens": 51},
        {"frames": np.zeros((1, 8, 8, 3), np.uint8)},
    ],
)
def test_another_model_sampling_or_frame_is_another_request(server, ask, change):
    ask("a")
    ask("a", **change)
    assert len(server.bodies) == 2


def test_pixels_and_seeds_distinguish_requests_and_seeds_have_31_bits(server, tmp_path):
    made = Endpoint(settings(server.url), tmp_path)
    frames = [np.full((2, 8, 8, 3), level, np.uint8) for level in (1, 2)]
    requests = [Request("x", seed, frame) for seed in (5, 2**62 + 6) for frame in frames]
    for _ in range(2):
        made.generate(requests, sampling=SamplingConfig(), max_new_tokens=5)
    assert sorted(body["seed"] for body in server.bodies) == [5, 5, 6, 6]


def test_failures_are_not_cached(server, ask):
    server.usual = error(400)
    assert ask("a")[0].failure
    server.usual = echo
    assert ask("a") == [Answer("a 0", True)]


# The API key


def test_the_key_comes_from_the_named_variable_and_is_only_in_the_header(server, ask, tmp_path):
    ask("x", api_key_env="SOME_KEY")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    ask("y")
    assert server.headers[1]["authorization"] == "Bearer EMPTY"
    assert KEY not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_the_server_repeats_is_not_shown(server, ask, caplog):
    caplog.set_level("DEBUG")
    server.tricks.append(error(400, f"not for {KEY}"))
    (answer,) = ask("x", api_key_env="SOME_KEY")
    assert answer.failure == "HTTP 400: not for ***"
    server.usual = server.alive = error(401, KEY * 50)
    with pytest.raises(EndpointDown, match=r"\*\*\*") as caught:
        ask("y", api_key_env="SOME_KEY")
    assert KEY not in str(caught.value) + caplog.text


@pytest.mark.parametrize("value", ["", "  "])
def test_a_key_that_is_not_set_is_an_error_before_any_request(server, ask, monkeypatch, value):
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match=r"endpoint\.api_key_env.*SOME_KEY is not set"):
        ask("x", api_key_env="SOME_KEY")
    assert server.bodies == []
