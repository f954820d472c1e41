"""The base of all sections, and the sections about the run, its model and what it shows."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: Names of phases and baselines are used as folder names.
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


class Section(BaseModel):
    """A part of the configuration. It is frozen and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """Settings of the whole run. `engine`, `ray_address` and `num_workers` do not change any result.

    Without `ray_address` Ray is started on this machine. The machines of a cluster need videos, run directory
    and checkpoint under the same paths.
    """

    seed: int = Field(0, ge=0, description="all random choices are derived from it")
    num_workers: int = Field(0, ge=0, description="processes of stages without a model; 0 is one per core")
    engine: Literal["local", "ray"] = Field("local", description="processes here, or Ray (extra `ray`)")
    ray_address: str = Field(
        "",
        pattern=r"^(auto|[^/\s]+:\d+)?$",
        description="`host:port` of a cluster, or `auto` on its machines",
    )


class ModelConfig(Section):
    """The video-language model, in Hugging Face format.

    With `quantization = "4bit"` linear layers are in NF4, also while LoRA is trained on them. The adapter is
    merged into the original weights. The data type float16 cannot be trained.
    """

    path: str = Field("embedded", description="directory, hub name, or `embedded`, a small built-in model")
    quantization: Literal["none", "4bit"] = Field("none", description="4bit needs the extra `quantize`")
    device: str = Field(
        "auto",
        pattern=r"^(auto|(cpu|cuda|mps|xpu)(:(0|[1-9][0-9]*))?)$",
        description="torch device, such as `cuda:1`; auto is a GPU if there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on a CPU"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")


class EndpointConfig(Section):
    """A server with OpenAI's chat completions API that writes captions and responses: see serving.md.

    It must serve the checkpoint of `model.path`, which is trained later.
    """

    url: str = Field(description="such as `http://host:8000/v1`")
    model: str = Field(min_length=1, description="the name under which the server serves the checkpoint")
    server: Literal["vllm", "sglang", "lmdeploy", "transformers", "other"] = Field(
        "vllm", description="which parameters it accepts; `other` is sent no repetition penalty"
    )
    api_key_env: str = Field("", description="environment variable with the API key; empty sends no key")
    concurrency: int = Field(16, ge=1, le=1000, description="requests in flight at a time")
    timeout_seconds: float = Field(300.0, gt=0, description="for one request with all its retries")
    max_retries: int = Field(5, ge=0, description="attempts after the first one, with growing waits between")

    # Neither message shows the value, which may contain a key.
    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[^?#@\s]*)?", url):
            raise ValueError(
                "must be like http://host:8000/v1, without user, password or query. Put a key into the "
                "environment variable that api_key_env names"
            )
        return url

    @field_validator("api_key_env")
    @classmethod
    def _check_variable(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError("must be the name of an environment variable in capitals, not the key itself")
        return name


class EvaluationConfig(Section):
    """The benchmark for all models of the run. The synthetic world has its own."""

    benchmark: str = Field("", description="JSONL file of samples: see guide.md for its format")


class ReportConfig(Section):
    """What report.html shows."""

    num_videos: int = Field(6, ge=0, description="maximum number of videos with their clips")
    num_pairs: int = Field(6, ge=0, description="maximum number of pairs with both texts")
