"""A real server on loopback: `transformers serve` with the embedded model, if its packages are installed.

pip install 'transformers[serving]'
"""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tempo import load_model
from tempo.config import EndpointConfig, SamplingConfig
from tempo.model.answers import Request
from tempo.model.endpoint import Endpoint
from tempo.model.generate import generate
from tempo.model.loading import embedded_path

MISSING = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

SERVE = """
from tempo.model.loading import repair_torchvision
repair_torchvision()
from transformers.cli.transformers import main
main()
"""
MODEL = str(embedded_path())
REQUESTS = [Request(prompt, 0) for prompt in ("Describe the clip.", "What happens first?")]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    options = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--device", "cpu"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", *options], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while not is_healthy(address):
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()


def is_healthy(address):
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(url, directory, requests, *, model=MODEL, **sampling):
    config = EndpointConfig(url=url, model=model, server="transformers", concurrency=1, max_retries=1)
    settings = SamplingConfig(repetition_penalty=1.0, **sampling)
    return Endpoint(config, directory).generate(requests, sampling=settings, max_new_tokens=40)


def test_answers_equal_those_of_the_model_in_this_process_and_are_cached(url, tmp_path):
    greedy = SamplingConfig(repetition_penalty=1.0, temperature=0.0)
    expected = generate(load_model("embedded"), REQUESTS, sampling=greedy, max_new_tokens=40)
    assert all(answer.text for answer in expected)
    assert ask(url, tmp_path, REQUESTS, temperature=0.0) == expected
    # No server is at this port: these answers come from the run directory.
    assert ask("http://127.0.0.1:9/v1", tmp_path, REQUESTS, temperature=0.0) == expected


def test_the_temperature_reaches_the_model(url, tmp_path):
    requests = [Request("Describe the clip.", seed) for seed in range(2)]
    cold, hot = (ask(url, tmp_path, requests, temperature=t) for t in (0.0, 5.0))
    assert [len({answer.text for answer in answers}) for answers in (cold, hot)] == [1, 2]
