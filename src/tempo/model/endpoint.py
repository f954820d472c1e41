"""Answers from an OpenAI-compatible server, with the same contract as `tempo.model.generate.generate`.

The `openai` client retries failed requests. If all retries fail, a trivial request is sent. If that
fails too, the run stops; otherwise only the record of the failed request is skipped. Answers are cached
in the run directory, so a restarted run sends no request twice.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tempo.config import EndpointConfig, SamplingConfig
from tempo.core.files import append_jsonl, read_jsonl, replace_surrogates
from tempo.engine.types import Context
from tempo.model.answers import Answer, Generate, Request, without_reasoning

if TYPE_CHECKING:
    from openai import AsyncOpenAI

#: The cache in a run directory.
CACHE = Path("endpoint") / "answers.jsonl"

#: The beginning of a special token of some model: `<|im_end|>`, `<video>`, `</s>`, `[INST]`, `[gMASK]`.
_SPECIAL = re.compile(r"<(?=[^<>\s]+>)|\[(?=/?g?[A-Z][A-Z_]+\])")


def answer_source(context: Context) -> Generate:
    """A function that samples answers from the server in `[endpoint]`, or from the model if there is none."""
    if context.config.endpoint is not None:
        return Endpoint(context.config.endpoint, context.directory).generate
    from tempo.model.generate import generate
    from tempo.model.loading import load_model

    return functools.partial(generate, load_model(**context.config.model.model_dump()))


class Endpoint:
    """The server of an `[endpoint]` section, and the cache of its answers in a run directory."""

    def __init__(self, config: EndpointConfig, directory: Path) -> None:
        self._config = config
        self._api_key = read_api_key(config)
        self._path = directory / CACHE
        self._answers = {row["key"]: Answer(row["text"], row["is_whole"]) for row in read_jsonl(self._path)}

    def generate(
        self, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]:
        """One answer per request, in order; the answer to a failed request has a `failure`.

        Raises ValueError if even a trivial request fails. Answers received before that, or before an
        interrupt, are in the cache.
        """
        fields = request_fields(self._config, sampling, max_tokens=max_new_tokens)
        answers = asyncio.run(self._answer_all(requests, fields))
        return [without_reasoning(answer) for answer in answers]

    async def _answer_all(self, requests: Sequence[Request], fields: dict[str, Any]) -> list[Answer]:
        import openai

        slots = asyncio.Semaphore(self._config.concurrency)

        async def answer(request: Request) -> Answer:
            # Frames are encoded only now, so that waiting requests take no memory for them.
            async with slots:
                return await self._answer(client, request, fields)

        async with openai.AsyncOpenAI(
            base_url=self._config.url,
            # Without a key the client would send OPENAI_API_KEY, which belongs to another server.
            api_key=self._api_key or "EMPTY",
            max_retries=self._config.max_retries,
            # `_complete` limits the time of the whole request.
            timeout=openai.Timeout(None, connect=10.0),
        ) as client:
            return await asyncio.gather(*map(answer, requests))

    async def _answer(self, client: AsyncOpenAI, request: Request, fields: dict[str, Any]) -> Answer:
        """The answer from the cache or the server. Raises ValueError if the server is down."""
        # Several servers store a seed in 32 bits.
        fields = {**fields, "seed": request.seed % 2**31}
        request = replace(request, prompt=escape(request.prompt))
        key = cache_key(fields, request)
        if key in self._answers:
            return self._answers[key]
        answer = await self._complete(client, request, fields)
        if not answer.failure:
            row = {"key": key, "text": answer.text, "is_whole": answer.is_whole}
            append_jsonl(self._path, [json.dumps(row, ensure_ascii=False)])
            self._answers[key] = answer
            return answer
        frames = None if request.frames is None else np.zeros((1, 64, 64, 3), np.uint8)
        once, trivial = client.with_options(max_retries=0), Request("Say yes.", 0, frames)
        if reason := (await self._complete(once, trivial, {**fields, "max_tokens": 8})).failure:
            raise ValueError(
                f"endpoint: {self._config.url} does not answer for model {self._config.model!r}: {reason}. "
                "The answers so far are kept. Check the server, endpoint.model and endpoint.api_key_env, and "
                "run the same command again"
            )
        return answer

    async def _complete(self, client: AsyncOpenAI, request: Request, fields: dict[str, Any]) -> Answer:
        """One chat completion with the client's retries; if it fails, an answer with the reason."""
        import openai

        messages: Any = chat_messages(request)
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                # extra_body is for fields that OpenAI's own interface does not have.
                reply = await client.chat.completions.create(
                    model=self._config.model, messages=messages, extra_body=fields
                )
            # The client does not check the types of a reply.
            text, reason = reply.choices[0].message.content or "", reply.choices[0].finish_reason
            return Answer(replace_surrogates(text.strip()), is_whole=reason == "stop")
        except TimeoutError:
            failure = f"no answer within endpoint.timeout_seconds = {self._config.timeout_seconds:g}"
        except openai.APIError as error:
            # For a failed connection, only the cause has details.
            cause = error.__cause__ or error
            failure = f"{type(cause).__name__}: {cause}"
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            failure = f"the reply is not a chat completion: {error}"
        if self._api_key:
            # Some servers repeat the key in their error message.
            failure = failure.replace(self._api_key, "***")
        failure = replace_surrogates(" ".join(failure.split())[:250])
        return Answer("", is_whole=False, failure=failure)


def escape(text: str) -> str:
    """The text with a space in each word that a server could parse as a special token: `< video>`.

    A lone surrogate, which a request cannot contain, becomes U+FFFD.
    """
    return replace_surrogates(_SPECIAL.sub(lambda start: f"{start[0]} ", text))


def read_api_key(config: EndpointConfig) -> str:
    """The API key of a server; empty if `api_key_env` is empty. Raises ValueError for an unset variable."""
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if config.api_key_env and not key:
        raise ValueError(
            f"endpoint.api_key_env: the environment variable {config.api_key_env} is not set. Set it to the "
            "server's API key"
        )
    return key


def request_fields(config: EndpointConfig, sampling: SamplingConfig, *, max_tokens: int) -> dict[str, Any]:
    """All fields of a request except messages and seed, in the form that `endpoint.server` accepts.

    Servers may take a missing field from the checkpoint's generation config, so top_p, top_k and min_p are
    switched off explicitly.
    """
    fields: dict[str, Any] = {
        "model": config.model,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
    }
    if config.server == "other":
        return fields
    penalty = {"repetition_penalty": sampling.repetition_penalty}
    if config.server == "transformers":
        # It rejects unknown fields, and samples only if the checkpoint or this field enables it.
        own = {"do_sample": sampling.temperature > 0, "top_k": 0, **penalty}
        return fields | {"generation_config": json.dumps(own)}
    return fields | penalty | {"top_k": 0 if config.server == "lmdeploy" else -1, "min_p": 0.0}


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """One user message: the frames in order as lossless PNG images, then the prompt, or the prompt alone."""
    if request.frames is None:
        return [{"role": "user", "content": request.prompt}]
    import cv2

    content: list[dict[str, Any]] = []
    for frame in request.frames:
        data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": request.prompt})
    return [{"role": "user", "content": content}]


def cache_key(fields: Mapping[str, Any], request: Request) -> str:
    """A hash of everything that an answer depends on: model, sampling, prompt, seed and pixels."""
    # The PNGs are not hashed, because their bytes depend on the version of the encoder.
    shape = [] if request.frames is None else list(request.frames.shape)
    head = json.dumps([fields, request.prompt, request.seed, shape], sort_keys=True)
    digest = hashlib.sha256(head.encode())
    if request.frames is not None:
        digest.update(np.ascontiguousarray(request.frames).tobytes())
    return digest.hexdigest()
