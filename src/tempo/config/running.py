"""Where a run works and with which model."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tempo.config.base import Section


class RunConfig(Section):
    """What holds for the whole run. `num_workers = 0` means one per core.

    `engine` is where stages run, and changes no result: in processes of this machine, or in Ray actors. Their
    Ray is started for the run, or is the cluster at `ray_address` (`host:port`, or `auto` on one of its
    machines), which all have videos, run directory and checkpoint under the same paths.

    `rounds` is how often captions, responses, pairs and the phases up to the last DPO phase are done: each
    time after the first with the model that the time before left, from which training goes on. Phases after
    the last DPO phase follow once. Baselines start from `model.path`, as in a single round.
    """

    seed: int = Field(0, ge=0, description="every draw follows from it")
    num_workers: int = Field(0, ge=0, description="processes of the stages that use no model")
    rounds: int = Field(1, ge=1)
    engine: Literal["local", "ray"] = "local"
    ray_address: str = Field("", pattern=r"^(auto|[^/\s]+:\d+)?$")

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        port = self.ray_address.rpartition(":")[2]
        if port.isdigit() and not 0 < int(port) < 65536:
            raise ValueError(f"ray_address {self.ray_address!r}: a port is a number from 1 to 65535")
        if self.ray_address and self.engine != "ray":
            raise ValueError(f"ray_address {self.ray_address!r} would do nothing with engine {self.engine!r}")
        return self


class ModelConfig(Section):
    """A Hugging Face video-language checkpoint, by path or hub name; `embedded` is the package's own.

    `quantization = "4bit"` (extra `quantize`) holds its linear layers in NF4, also while LoRA is trained over
    them; what was learned is merged into the checkpoint's own weights.
    """

    path: str = Field("embedded", description="checkpoint directory, hub name, or `embedded`")
    quantization: Literal["none", "4bit"] = "none"
    device: str = Field("auto", description="torch's name, like `cuda:1`; auto: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on a CPU; float16 cannot be trained"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:(0|[1-9]\d*))?", device, re.ASCII):
            raise ValueError(f"{device!r} is no device; give auto, cpu, cuda, cuda:1 and so on, mps or xpu")
        return device


class EndpointConfig(Section):
    """A server that samples captions and responses instead of the local model: docs/serving.md.

    It offers OpenAI's chat completions under `url` and serves the checkpoint of `model.path` as `model`.
    `server` selects the fields of a request; `other` has no repetition penalty. `api_key_env` names the
    environment variable that holds the API key; the key itself is never part of a configuration.
    """

    url: str = Field(description="like `http://host:8000/v1`")
    model: str = Field(min_length=1)
    server: Literal["vllm", "sglang", "lmdeploy", "transformers", "other"] = "vllm"
    api_key_env: str = Field("", description="environment variable with the API key")
    concurrency: int = Field(16, ge=1, le=1000, description="requests sent at a time")
    timeout_seconds: float = Field(300.0, gt=0, description="limit for one request, its retries included")
    max_retries: int = Field(5, ge=0, description="attempts after the first, with growing waits")

    @model_validator(mode="after")
    def _check(self) -> EndpointConfig:
        # Neither message shows the value, which may be a misplaced API key.
        if not _is_plain_url(self.url):
            raise ValueError(
                "url must be like http://host:8000/v1, without user, password or query; put an API key into "
                "the environment variable that api_key_env names"
            )
        if self.api_key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env must be the name of an environment variable in capitals, not the key itself"
            )
        return self


def _is_plain_url(url: str) -> bool:
    """Whether it is an address, a port that exists and a path, and nothing else."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", url):
        return False
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
