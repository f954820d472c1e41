"""Answers drawn by an OpenAI-compatible server over HTTP: the same contract as `generation.generate`.

A request that fails is tried again, then given up; before that the server is asked something trivial. So a
server that is down stops the run and costs no video, and a request that only it cannot serve costs its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from tempo.config import EndpointConfig, SamplingConfig
from tempo.core.seeds import derive_seed
from tempo.model.answer_cache import AnswerCache
from tempo.model.answers import Answer, Request
from tempo.model.chat import Passing, Refused, cache_key, messages, read_key, read_reply, settings

T = TypeVar("T")

#: Where the answers lie in a run directory.
CACHE = Path("endpoint") / "answers.jsonl"

#: No wait is longer; a server that asks for more stops the run, which can be started again then.
MAX_WAIT_SECONDS = 600.0
MAX_BACKOFF_SECONDS = 60.0

#: A reply that is longer is no chat completion.
MAX_REPLY_BYTES = 2**24

#: Trouble that passes is told once in this time.
TELL_SECONDS = 60.0

logger = logging.getLogger(__name__)


class EndpointDown(ValueError):
    """The server does not answer even a trivial request."""


@dataclass(frozen=True)
class Call:
    """A request on its way: its key in the cache, and its body but for the messages."""

    request: Request
    key: str
    fields: dict[str, Any]


class Endpoint:
    """The server of an [endpoint] section; its answers are kept in the run directory.

    Raises ValueError if the environment variable that holds its key is not set.
    """

    def __init__(self, config: EndpointConfig, directory: Path) -> None:
        self.config = config
        self.cache = AnswerCache(directory / CACHE)
        self._key = read_key(config)
        self._told_at = -math.inf

    def generate(
        self, requests: Sequence[Request], *, sampling: SamplingConfig, max_new_tokens: int
    ) -> list[Answer]:
        """One answer per request, in order; one that the server would not give has a `failure`.

        Raises EndpointDown if the server is; what it answered until then is kept.
        """
        calls = [self._call(request, sampling, max_new_tokens) for request in requests]
        answers = [self.cache.get(call.key) for call in calls]
        left = [i for i, answer in enumerate(answers) if answer is None]
        if left:
            try:
                drawn = _run(self._ask_all([calls[i] for i in left]))
            finally:
                self.cache.sync()
            for i, answer in zip(left, drawn, strict=True):
                answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def _call(self, request: Request, sampling: SamplingConfig, max_tokens: int) -> Call:
        fields = settings(self.config, sampling, max_tokens=max_tokens, seed=request.seed)
        return Call(request, cache_key(fields, request), fields)

    async def _ask_all(self, calls: Sequence[Call]) -> list[Answer]:
        """Answers in the order of the calls, `concurrency` of them at a time."""
        answers: dict[int, Answer] = {}
        # One iterator for all: who is free takes the next, and pictures are encoded only then.
        numbered = iter(enumerate(calls))
        async with self._client() as client, asyncio.TaskGroup() as group:

            async def take_turns() -> None:
                for number, call in numbered:
                    answers[number] = await self._answer(client, call)

            for _ in range(min(self.config.concurrency, len(calls))):
                group.create_task(take_turns())
        return [answers[number] for number in range(len(calls))]

    def _client(self) -> httpx.AsyncClient:
        # The time for a whole attempt is bounded in `_send`: httpx would bound each read, and a server that
        # sends a byte a minute could hold a run for ever.
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(None, connect=self.config.connect_timeout_seconds),
            limits=httpx.Limits(max_connections=self.config.concurrency),
        )

    async def _answer(self, client: httpx.AsyncClient, call: Call) -> Answer:
        """The answer, kept in the cache, or its failure, which is not."""
        body = {**call.fields, "messages": messages(call.request)}
        try:
            answer = await self._ask(client, body, call)
        except (Passing, Refused) as error:
            return Answer("", is_whole=False, failure=str(error))
        self.cache.put(call.key, answer)
        return answer

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any], call: Call) -> Answer:
        """The answer; raises Refused, or Passing after the last attempt, of a server that is otherwise up."""
        try:
            for wait_seconds in _waits(self.config, call.request.seed):
                try:
                    return await self._send(client, body)
                except Passing as error:
                    await self._wait(error, wait_seconds)
            await self._check_alive(client, call)
            return await self._send(client, body)
        except Refused:
            await self._check_alive(client, call)
            raise

    async def _wait(self, error: Passing, seconds: float) -> None:
        if error.wait_seconds > MAX_WAIT_SECONDS:
            raise self._down(f"{error}; it asks to wait {error.wait_seconds:.0f} s")
        if time.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = time.monotonic()
            logger.warning("%s: %s; trying again", self.config.url, error)
        await asyncio.sleep(error.wait_seconds + seconds)

    async def _check_alive(self, client: httpx.AsyncClient, call: Call) -> None:
        """Asks the least that is of the same kind as `call`; raises EndpointDown if even that fails."""
        frames = None if call.request.frames is None else np.zeros((1, 64, 64, 3), np.uint8)
        least = {**call.fields, "max_tokens": 8, "messages": messages(Request("Say yes.", 0, frames))}
        try:
            await self._send(client, least)
        except (Passing, Refused) as error:
            raise self._down(str(error)) from None

    def _down(self, why: str) -> EndpointDown:
        return EndpointDown(
            f"endpoint: {self.config.url} does not answer as {self.config.model!r}: {why}. Nothing is lost: "
            "see to the server, endpoint.model and endpoint.api_key_env, then give the same command again"
        )

    async def _send(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        """One attempt."""
        url = self.config.url.rstrip("/") + "/chat/completions"
        limit_seconds = self.config.timeout_seconds
        try:
            async with asyncio.timeout(limit_seconds), client.stream("POST", url, json=body) as response:
                content = await _read(response)
        except TimeoutError:
            raise Passing(f"no whole reply within {limit_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise Passing(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        return read_reply(response.status_code, response.headers, content, secret=self._key)


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MAX_REPLY_BYTES:
            raise Passing(f"a reply of more than {MAX_REPLY_BYTES} bytes")
    return bytes(content)


def _waits(config: EndpointConfig, seed: int) -> Iterator[float]:
    """Seconds before each further attempt: doubled each time, and spread by the request's own seed."""
    spread = random.Random(derive_seed(seed, "backoff"))
    for number in range(config.retries):
        yield min(MAX_BACKOFF_SECONDS, config.backoff_seconds * 2**number) * spread.uniform(0.5, 1.5)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or first raises; Ctrl-C cancels it, as does SIGTERM, which is no Exception."""
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
