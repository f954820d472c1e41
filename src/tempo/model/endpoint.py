"""Answers from an OpenAI-compatible server, with the same contract as `tempo.model.generate.generate`.

The `openai` client retries requests that fail. When a request fails for good, the server is sent a trivial
one. If that fails too, the server is down and the run stops; otherwise only the record of the failed request
is skipped. Answers are cached in the run directory, so a restarted run sends no request twice.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tempo.config import EndpointConfig, SamplingConfig
from tempo.core.files import append_jsonl, read_jsonl
from tempo.engine.types import Context
from tempo.model.answers import Answer, Generate, Request, without_reasoning

if TYPE_CHECKING:
    from openai import AsyncOpenAI

#: The cache in a run directory.
CACHE = Path("endpoint") / "answers.jsonl"

CONNECT_SECONDS = 10.0

#: Quotes of a server in our messages are cut to this number of characters.
QUOTE_LENGTH = 200


class EndpointDown(ValueError):
    """The server does not answer even a trivial request."""


class RequestFailed(Exception):
    """The server did not answer a request, after all retries; the message is the reason."""


def answer_source(context: Context) -> Generate:
    """A function that samples answers from the server of the `[endpoint]` section, or from the model.

    Without that section the model is loaded now.
    """
    if context.config.endpoint is not None:
        return Endpoint(context.config.endpoint, context.directory).generate
    from tempo.model.generate import generate
    from tempo.model.loading import load_video_lm

    return functools.partial(generate, load_video_lm(context.config.model))


class Endpoint:
    """The server of an `[endpoint]` section and the cache of its answers in a run directory.

    Raises ValueError if the environment variable of its API key is not set.
    """

    def __init__(self, config: EndpointConfig, directory: Path) -> None:
        self._config = config
        self._api_key = read_api_key(config)
        self._path = directory / CACHE
        self._answers = {row["key"]: Answer(row["text"], row["is_whole"]) for row in read_jsonl(self._path)}

    def generate(
        self, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]:
        """One answer per request, in order; a request that the server cannot answer has a `failure`.

        Raises EndpointDown if the server answers no request at all; the cache keeps the answers up to then.
        """
        answers = asyncio.run(self._answer_all(requests, sampling, max_new_tokens))
        return [without_reasoning(answer) for answer in answers]

    async def _answer_all(
        self, requests: Sequence[Request], sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]:
        import openai

        slots = asyncio.Semaphore(self._config.concurrency)

        async def answer(request: Request) -> Answer:
            fields = request_fields(self._config, sampling, max_tokens=max_new_tokens, seed=request.seed)
            # Frames are encoded inside, so that those of waiting requests take no memory.
            async with slots:
                return await self._answer(client, request, fields)

        async with openai.AsyncOpenAI(
            base_url=self._config.url,
            # Without a key the client would send OPENAI_API_KEY, which belongs to another server.
            api_key=self._api_key or "EMPTY",
            max_retries=self._config.max_retries,
            # `_complete` limits the time of the whole request.
            timeout=openai.Timeout(None, connect=CONNECT_SECONDS),
        ) as client:
            return await asyncio.gather(*map(answer, requests))

    async def _answer(self, client: AsyncOpenAI, request: Request, fields: dict[str, Any]) -> Answer:
        """The answer from the cache or the server, or one with the reason of its failure."""
        key = cache_key(fields, request)
        if key in self._answers:
            return self._answers[key]
        try:
            answer = await self._complete(client, request, fields)
        except RequestFailed as error:
            await self._check_up(client, request, fields)
            return Answer("", is_whole=False, failure=str(error))
        row = {"key": key, "text": answer.text, "is_whole": answer.is_whole}
        append_jsonl(self._path, [json.dumps(row, ensure_ascii=False)])
        self._answers[key] = answer
        return answer

    async def _check_up(self, client: AsyncOpenAI, request: Request, fields: dict[str, Any]) -> None:
        """Sends a trivial request of the same kind. Raises EndpointDown if that fails too."""
        frames = None if request.frames is None else np.zeros((1, 64, 64, 3), np.uint8)
        once = client.with_options(max_retries=0)
        try:
            await self._complete(once, Request("Say yes.", 0, frames), {**fields, "max_tokens": 8})
        except RequestFailed as error:
            raise EndpointDown(
                f"endpoint: {self._config.url} does not answer as model {self._config.model!r}: {error}. The "
                "answers so far are kept. Check the server, endpoint.model and endpoint.api_key_env, and run "
                "the same command again"
            ) from None

    async def _complete(self, client: AsyncOpenAI, request: Request, fields: dict[str, Any]) -> Answer:
        """One chat completion with the client's retries. Raises RequestFailed."""
        import openai

        limit = self._config.timeout_seconds
        messages: Any = chat_messages(request)
        try:
            async with asyncio.timeout(limit):
                # extra_body takes the fields that OpenAI's own interface does not have.
                reply = await client.chat.completions.create(
                    model=self._config.model, messages=messages, extra_body=fields
                )
            # The client does not check the types of a reply.
            text, reason = reply.choices[0].message.content or "", reply.choices[0].finish_reason
            # Half of a surrogate pair, which no file can hold, becomes a question mark.
            answer = Answer(text.strip().encode("utf-8", "replace").decode(), is_whole=reason == "stop")
        except TimeoutError:
            raise RequestFailed(f"no answer within endpoint.timeout_seconds = {limit:g}") from None
        except openai.APIStatusError as error:
            raise RequestFailed(f"HTTP {error.status_code}: {self._quote(_reason(error.body))}") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise RequestFailed(f"{type(cause).__name__}: {self._quote(cause)}") from None
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            raise RequestFailed(f"the reply is not a chat completion: {self._quote(error)}") from None
        if reason in ("abort", "error"):
            raise RequestFailed(f"the server aborted the answer: finish_reason {reason!r}")
        return answer

    def _quote(self, words: object) -> str:
        """Words of a server on one short line, without the API key, which some servers repeat."""
        line = " ".join(str(words).split())
        line = line.replace(self._api_key, "***") if self._api_key else line
        return line if len(line) <= QUOTE_LENGTH else line[:QUOTE_LENGTH] + " ..."


def _reason(body: object) -> object:
    """The message in the body of an error, in whichever of the usual places it is."""
    return (body.get("message") or body.get("detail") or body) if isinstance(body, Mapping) else body


def read_api_key(config: EndpointConfig) -> str:
    """The API key of a server; empty if `api_key_env` is. Raises ValueError if the variable is not set."""
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if config.api_key_env and not key:
        raise ValueError(f"endpoint.api_key_env: the environment variable {config.api_key_env} is not set")
    return key


def request_fields(
    config: EndpointConfig, sampling: SamplingConfig, *, max_tokens: int, seed: int
) -> dict[str, Any]:
    """All fields of a request except its messages, in the form that `endpoint.server` accepts.

    Servers may take a missing field from the checkpoint's generation config, so top_p, top_k and min_p are
    switched off explicitly.
    """
    fields: dict[str, Any] = {
        "model": config.model,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        # Several servers store a seed in 32 bits.
        "seed": seed % 2**31,
    }
    if config.server == "other":
        return fields
    penalty = {"repetition_penalty": sampling.repetition_penalty}
    if config.server == "transformers":
        # It refuses unknown fields, and samples only if the checkpoint or this field asks for it.
        own = {"do_sample": sampling.temperature > 0, "top_k": 0, **penalty}
        return fields | {"generation_config": json.dumps(own)}
    return fields | penalty | {"top_k": 0 if config.server == "lmdeploy" else -1, "min_p": 0.0}


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """One user message: the frames in order as images, then the prompt; a plain string if text-only."""
    if request.frames is None:
        return [{"role": "user", "content": request.prompt}]
    images = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in request.frames]
    return [{"role": "user", "content": [*images, {"type": "text", "text": request.prompt}]}]


def _data_url(frame: np.ndarray) -> str:
    """A frame uint8 [H, W, 3] in RGB as a PNG: lossless, so the server gets the same pixels as training."""
    import cv2

    is_encoded, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert is_encoded, f"no PNG of {frame.shape}"
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def cache_key(fields: Mapping[str, Any], request: Request) -> str:
    """A hash of all that an answer depends on: model, sampling, prompt, seed and pixels.

    It hashes the pixels, not their PNGs: another version of the encoder changes no key.
    """
    shape = [] if request.frames is None else list(request.frames.shape)
    head = json.dumps([fields, request.prompt, request.seed, shape], sort_keys=True)
    digest = hashlib.sha256(head.encode())
    if request.frames is not None:
        digest.update(np.ascontiguousarray(request.frames).tobytes())
    return digest.hexdigest()
