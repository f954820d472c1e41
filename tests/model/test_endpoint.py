"""Answers over HTTP: what is sent, what counts as an answer, and what a server may do to us."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import cv2
import numpy as np
import pytest
from misbehaving_server import (
    Server,
    completion,
    cut_off,
    drip,
    echo,
    error,
    hang,
    raw,
    reply,
    reset,
)

from tempo.cli.errors import Terminated
from tempo.config import EndpointConfig, SamplingConfig
from tempo.model import endpoint as endpoint_module
from tempo.model.answers import Answer, Request
from tempo.model.chat import retry_after_seconds
from tempo.model.endpoint import CACHE, Endpoint, EndpointDown

GOOD = Answer("An answer.", is_whole=True)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def ask(server, tmp_path):
    """A function that asks the server these prompts, by a new Endpoint over the same run directory."""

    def run(*prompts, sampling=None, max_new_tokens=50, frames=None, **config):
        requests = [Request(prompt, seed, frames) for seed, prompt in enumerate(prompts)]
        made = Endpoint(settings(server.url, **config), tmp_path)
        return made.generate(requests, sampling=sampling or SamplingConfig(), max_new_tokens=max_new_tokens)

    return run


def settings(url, **config):
    """Patient enough for a busy machine, quick between attempts."""
    quick = {"model": "m", "backoff_seconds": 0.01, "retries": 2, "connect_timeout_seconds": 5}
    return EndpointConfig(**{"url": url, "timeout_seconds": 20, **quick, **config})


# What is sent


def test_answers_come_in_the_order_of_the_requests(server, ask):
    server.usual = lambda handler, body: (time.sleep(random.random() / 20), echo(handler, body))
    prompts = [f"question {i}" for i in range(40)]
    assert [answer.text for answer in ask(*prompts)] == [f"question {i} {i}" for i in range(40)]


def test_words_alone_are_sent_as_a_string(server, ask):
    ask("Fuse these.", max_new_tokens=77)
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "Fuse these."}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 77, 0.7)


def test_frames_are_sent_as_images_in_order_and_without_loss(server, ask):
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    assert ask("What happens?", frames=frames) == [GOOD]
    *images, words = server.bodies[0]["messages"][0]["content"]
    assert words == {"type": "text", "text": "What happens?"}
    for frame, part in zip(frames, images, strict=True):
        head, data = part["image_url"]["url"].split(",")
        assert (part["type"], head) == ("image_url", "data:image/png;base64")
        seen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(cv2.cvtColor(seen, cv2.COLOR_BGR2RGB), frame)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm", {"repetition_penalty": 1.2, "top_k": -1, "min_p": 0.0}),
        ("sglang", {"repetition_penalty": 1.2, "top_k": -1, "min_p": 0.0}),
        ("lmdeploy", {"repetition_penalty": 1.2, "top_k": 0, "min_p": 0.0}),
        ("other", {}),
    ],
)
def test_each_server_is_sent_what_it_understands(server, ask, name, expected):
    ask("x", server=name, sampling=SamplingConfig(temperature=0.5, repetition_penalty=1.2))
    common = {"model": "m", "max_tokens": 50, "temperature": 0.5, "top_p": 1.0, "seed": 0}
    sent = {key: value for key, value in server.bodies[0].items() if key != "messages"}
    assert sent == common | expected


@pytest.mark.parametrize(("temperature", "draws"), [(0.7, True), (0.0, False)])
def test_transformers_is_told_to_draw(server, ask, temperature, draws):
    sampling = SamplingConfig(temperature=temperature, repetition_penalty=1.2)
    ask("x", server="transformers", sampling=sampling)
    body = server.bodies[0]
    assert set(body) == {
        "model", "messages", "max_tokens", "temperature", "top_p", "seed", "generation_config",
    }  # fmt: skip
    expected = {"do_sample": draws, "top_k": 0, "repetition_penalty": 1.2}
    assert json.loads(body["generation_config"]) == expected


def test_seeds_are_sent_in_31_bits(server, tmp_path):
    made = Endpoint(settings(server.url), tmp_path)
    made.generate([Request("x", 2**62 + 5)], sampling=SamplingConfig(), max_new_tokens=5)
    assert server.bodies[0]["seed"] == 5


def test_no_more_requests_are_under_way_than_allowed(server, ask):
    server.usual = reply(after_seconds=0.05)
    ask(*map(str, range(20)), concurrency=3)
    assert server.most_busy == 3


# What counts as an answer


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (completion(" Spaces. \n"), Answer("Spaces.", True)),
        (completion("cut", "length"), Answer("cut", False)),
        (completion("kept back", "content_filter"), Answer("kept back", False)),
        (completion("", "stop"), Answer("", True)),
        (completion(None, "stop"), Answer("", True)),
        (completion(None, "tool_calls"), Answer("", False)),
        (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), Answer("ab", True)),
        (completion("half \ud800 of it"), Answer("half ? of it", True)),
    ],
)
def test_reply_is_read_as_what_it_says(server, ask, data, expected):
    server.tricks.append(raw(json.dumps(data).encode()))
    assert ask("x") == [expected]
    assert len(server.bodies) == 1


# What passes, and what does not


@pytest.mark.parametrize(
    "trick",
    [
        error(500), error(502), error(503), error(429), error(408), cut_off, reset,
        raw(b""), raw(b"{"), raw(b"<html>busy</html>"), raw(b"[]"), raw(b"null"), raw(b"\xff\xfe"),
        raw(b'{"choices": []}'), raw(b'{"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}'),
        raw(b'{"choices": [{"message": {"content": "x"}}]}'), raw(b'{"error": {"message": "no"}}'),
        raw(b"[" * 100_000), raw(json.dumps(completion("x", "abort")).encode()),
        raw(b"zipped, it says", Content_Encoding="gzip"),
    ],
)  # fmt: skip
def test_fault_that_passes_costs_nothing(server, ask, trick):
    server.tricks.extend([trick, trick])
    assert ask("x") == [GOOD]
    assert server.prompts == ["x"] * 3


@pytest.mark.parametrize("trick", [hang, drip])
def test_server_that_never_finishes_is_left(server, ask, trick):
    """A byte now and then is no sign of life: the time for a whole attempt is bounded."""
    server.tricks.append(trick)
    assert ask("x", timeout_seconds=0.5) == [GOOD]


def test_reply_without_end_is_left(server, ask, monkeypatch):
    monkeypatch.setattr(endpoint_module, "MAX_REPLY_BYTES", 1000)
    server.tricks.append(raw(b"x" * 100_000))
    assert ask("x") == [GOOD]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_request_fails_alone_and_is_not_tried_again(server, ask, status):
    server.usual = lambda handler, body: (
        error(status, "the prompt is too long")(handler, body) if "bad" in str(body) else echo(handler, body)
    )
    good, bad, other = ask("good", "bad", "other")
    assert (good.text, other.text) == ("good 0", "other 2")
    assert (bad.text, bad.is_whole) == ("", False)
    assert f"HTTP {status}: the prompt is too long" in bad.failure
    assert server.prompts.count("bad") == 1


@pytest.mark.parametrize("trick", [error(500, "out of memory"), raw(b"<html>"), reset])
def test_request_that_only_fails_for_itself_fails_alone(server, ask, trick):
    server.usual = lambda handler, body: (trick if "bad" in str(body) else echo)(handler, body)
    good, bad = ask("good", "bad", retries=3)
    assert good.text == "good 0"
    assert bad.failure
    assert server.prompts.count("bad") == 4


def test_waits_grow_differ_and_follow_the_seed(server, ask, tmp_path):
    server.usual = error(500)
    ask("a", backoff_seconds=0.08)
    waits = np.diff(server.times)
    # 0.08 and 0.16, each times 0.5 to 1.5; the question whether anybody is there follows at once.
    assert waits[0] >= 0.04
    assert waits[1] >= 0.08
    config = settings("http://x", retries=8)
    seconds = [list(endpoint_module._waits(config, seed)) for seed in (1, 1, 2)]
    assert seconds[0] == seconds[1] != seconds[2]
    assert all(0.5 * 0.01 * 2**i <= wait <= 1.5 * 0.01 * 2**i for i, wait in enumerate(seconds[0]))
    assert max(endpoint_module._waits(settings("http://x", retries=20), 1)) <= 90


def test_wait_that_the_server_asks_for_is_kept(server, ask):
    server.tricks.append(error(429, Retry_After="1"))
    assert ask("x") == [GOOD]
    assert 1.0 <= server.times[1] - server.times[0] < 5


def test_wait_of_hours_stops_the_run(server, ask):
    server.tricks.append(error(429, "quota", Retry_After="7200"))
    with pytest.raises(EndpointDown, match=r"quota.*7200 s"):
        ask("x")


def test_retry_after_is_seconds_or_a_date_or_nothing():
    assert retry_after_seconds("12") == 12
    assert retry_after_seconds("") == retry_after_seconds("soon") == retry_after_seconds("-3") == 0
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < retry_after_seconds(ahead) <= 90
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


# A server that is down


@pytest.mark.parametrize(
    ("trick", "words"),
    [
        (error(401, "wrong key"), "HTTP 401: wrong key"),
        (error(404, "no such model"), "HTTP 404: no such model"),
        (raw(b"", status=307, Location="http://elsewhere/"), "HTTP 307"),
        (error(503, "loading"), "HTTP 503: loading"),
        (raw(b"<html>a router</html>"), "<html>a router</html>"),
        (reset, "Error"),
        (hang, "no whole reply within 0.5 s"),
    ],
)
def test_server_that_serves_nobody_stops_the_run_in_one_clear_message(server, ask, trick, words):
    server.usual = server.alive = trick
    with pytest.raises(EndpointDown) as caught:
        ask(*map(str, range(8)), retries=1, timeout_seconds=0.5)
    said = str(caught.value)
    assert said.startswith("endpoint: http://127.0.0.1:")
    for word in ("'m'", words, "Nothing is lost", "same command"):
        assert word in said


def test_nobody_at_the_port_is_said_so(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointDown, match="ConnectError"):
        Endpoint(settings(url), tmp_path).generate(
            [Request("x", 0)], sampling=SamplingConfig(), max_new_tokens=5
        )


@pytest.mark.parametrize("url", ["http://no.such.host.invalid/v1", "http://xn--/v1", "http://a..b/v1"])
def test_address_that_leads_nowhere_is_said_so(tmp_path, url):
    with pytest.raises(EndpointDown, match=r"endpoint: http://"):
        Endpoint(settings(url), tmp_path).generate(
            [Request("x", 0)], sampling=SamplingConfig(), max_new_tokens=5
        )


def test_text_only_server_is_noticed_before_it_costs_a_video(server, ask):
    """It refuses every picture, so it refuses the smallest one too."""
    server.usual = server.alive = lambda handler, body: (
        error(400, "not multimodal") if "image_url" in str(body) else echo
    )(handler, body)
    with pytest.raises(EndpointDown, match="not multimodal"):
        ask("x", frames=np.zeros((2, 8, 8, 3), np.uint8))
    assert ask("x")[0].text == "x 0"


def test_what_was_answered_before_the_server_went_down_is_not_asked_again(server, ask):
    server.usual = echo
    first = ask("a", "b")
    server.usual = server.alive = error(503)
    with pytest.raises(EndpointDown):
        ask("a", "b", "c")
    server.usual = echo
    assert ask("a", "b", "c")[:2] == first
    assert [server.prompts.count(word) for word in "abc"] == [1, 1, 3]


def test_server_that_comes_back_is_gone_on_with(tmp_path):
    first = Server()
    config = settings(first.url, retries=10, backoff_seconds=0.05)
    first.stop()
    back = []
    timer = threading.Timer(0.5, lambda: back.append(Server(first.server_port)))
    timer.start()
    try:
        made = Endpoint(config, tmp_path)
        assert made.generate([Request("x", 0)], sampling=SamplingConfig(), max_new_tokens=5) == [GOOD]
    finally:
        timer.join()
        back[0].stop()


def test_trouble_is_logged_once(server, ask, caplog):
    server.tricks.extend([error(503)] * 4)
    ask(*map(str, range(4)), concurrency=2)
    assert [
        record.getMessage().split(": ", 1)[1] for record in caplog.records if record.name.startswith("tempo")
    ] == ["HTTP 503: no; trying again"]


# The cache


def test_answers_survive_a_restart_whatever_else_changes(server, ask):
    server.usual = echo
    first = ask("a", "b")
    assert ask("a", "b", concurrency=1, retries=5) == first
    assert len(server.bodies) == 2


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
def test_another_model_sampling_or_picture_is_another_question(server, ask, change):
    ask("a")
    ask("a", **change)
    assert len(server.bodies) == 2


def test_pictures_and_seeds_tell_questions_apart(server, tmp_path):
    made = Endpoint(settings(server.url), tmp_path)
    frames = [np.full((2, 8, 8, 3), level, np.uint8) for level in (1, 2)]
    requests = [Request("x", seed, frame) for seed in (0, 2**31) for frame in frames]
    for _ in range(2):
        made.generate(requests, sampling=SamplingConfig(), max_new_tokens=5)
    assert len(server.bodies) == 4


def test_torn_line_is_passed_over(server, ask, tmp_path):
    server.usual = echo
    first = ask("a", "b", concurrency=1)
    path = tmp_path / CACHE
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert ask("a", "b") == first
    assert ask("a", "b") == first
    assert server.prompts == ["a", "b", "b"]


def test_strange_lines_in_the_cache_do_no_harm(server, ask, tmp_path):
    first = ask("a")
    path = tmp_path / CACHE
    strange = [b"\n", b"null\n", b"[]\n", b'{"key": 3}\n', b'{"key": "k", "text": 3, "is_whole": true}\n']
    path.write_bytes(b"".join(strange) + path.read_bytes() + b"\xff\xff")
    assert ask("a") == first
    assert len(server.bodies) == 1


def test_failures_are_not_kept(server, ask):
    server.usual = error(400)
    assert ask("a")[0].failure
    server.usual = echo
    assert ask("a") == [Answer("a 0", True)]


def test_cut_and_empty_answers_are_kept(server, ask):
    server.tricks.extend([reply("cut", "length"), reply("")])
    first = ask("a", "b", concurrency=1)
    assert ask("a", "b") == first == [Answer("cut", False), Answer("", True)]


# Keys

KEY = "sk-Very_secret+123"


def test_key_comes_from_the_named_variable_and_goes_into_the_header_alone(server, ask, monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_KEY", f"{KEY}\n")
    ask("x", api_key_env="SOME_KEY")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    ask("y")
    assert "Authorization" not in server.headers[1]
    assert KEY not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_key_that_the_server_repeats_is_not_passed_on(server, ask, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("SOME_KEY", KEY)
    server.tricks.append(error(500, f"who is {KEY}?"))
    server.tricks.append(error(400, f"not for {KEY}"))
    (answer,) = ask("x", api_key_env="SOME_KEY")
    assert answer.failure == "HTTP 400: not for ***"
    server.usual = server.alive = raw(f"<p>{KEY}".encode() * 50)
    with pytest.raises(EndpointDown) as caught:
        ask("y", api_key_env="SOME_KEY")
    assert "***" in str(caught.value)
    assert KEY not in str(caught.value) + caplog.text


@pytest.mark.parametrize(("key", "text"), [("none", "none too long"), ("stop", "stop there")])
def test_key_that_is_a_plain_word_changes_no_answer(server, ask, monkeypatch, key, text):
    """A server that asks for none is often given such a one."""
    monkeypatch.setenv("SOME_KEY", key)
    server.tricks.append(reply(text))
    assert ask("x", api_key_env="SOME_KEY") == [Answer(text, is_whole=True)]


@pytest.mark.parametrize(
    ("value", "words"), [("", "is not set"), ("  ", "is not set"), ("a b", "no key"), ("ключ", "no key")]
)
def test_missing_or_impossible_key_is_said_without_its_value(server, ask, monkeypatch, value, words):
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match=f"endpoint.api_key_env.*SOME_KEY.*{words}") as caught:
        ask("x", api_key_env="SOME_KEY")
    assert not value.strip() or value not in str(caught.value)
    assert server.bodies == []


# Stopping

STOPPED = """
import sys
from pathlib import Path
from tempo.model.answers import Request
from tempo.model.endpoint import Endpoint
from tempo.config import EndpointConfig, SamplingConfig
assert "torch" not in sys.modules and "transformers" not in sys.modules
made = Endpoint(EndpointConfig(url=sys.argv[1], model="m"), Path(sys.argv[2]))
made.generate([Request(str(i), i) for i in range(30)], sampling=SamplingConfig(), max_new_tokens=5)
"""


def test_ctrl_c_ends_within_seconds_and_keeps_what_came(server, ask, tmp_path):
    server.tricks.extend([echo, echo])
    server.usual = hang
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, server.url, str(tmp_path)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        # Tests that a shell started in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while len(server.bodies) < 10 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert "KeyboardInterrupt" in said
    assert len((tmp_path / CACHE).read_text().splitlines()) == 2


def test_sigterm_comes_out_as_itself(ask, monkeypatch):
    """Tasks gather what is raised in them in groups, one within the other."""

    def end(request):
        raise Terminated

    monkeypatch.setattr(endpoint_module, "messages", end)
    with pytest.raises(Terminated):
        ask("a", "b")
