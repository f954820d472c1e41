"""The words of the chat-completions protocol: what is sent to a server, and what its reply means.

Frames travel as images, each a base64 PNG: every server reads those. What a server's reply says about itself
is only ever quoted through `quote`, never in full.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np

from tempo.config import EndpointConfig, SamplingConfig
from tempo.model.answers import Answer, Request

#: A server's own words in a message are cut here.
QUOTE_LENGTH = 200

#: Statuses below 500 that pass by themselves: request time-out, too early, too many requests.
PASSING = (408, 425, 429)


class Passing(Exception):
    """A failure that may pass: worth another attempt, `wait_seconds` from now at the earliest."""

    def __init__(self, why: str, wait_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds


class Refused(Exception):
    """The server understood, and said no: the same request would be refused again."""


def settings(
    config: EndpointConfig, sampling: SamplingConfig, *, max_tokens: int, seed: int
) -> dict[str, Any]:
    """Everything of a request's body but its messages, in the words of `endpoint.server`.

    Servers may fill in what is not sent from the checkpoint's own generation config, so top_p and top_k are
    sent to say that they are off.
    """
    fields: dict[str, Any] = {
        "model": config.model,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        # Several servers hold a seed in 32 bits.
        "seed": seed % 2**31,
    }
    if config.server == "other":
        return fields
    penalty = {"repetition_penalty": sampling.repetition_penalty}
    if config.server == "transformers":
        # It refuses fields that it does not know, and draws nothing unless the checkpoint or this says so.
        own = {"do_sample": sampling.temperature > 0, "top_k": 0, **penalty}
        return fields | {"generation_config": json.dumps(own)}
    return fields | penalty | {"top_k": 0 if config.server == "lmdeploy" else -1, "min_p": 0.0}


def messages(request: Request) -> list[dict[str, Any]]:
    """One user message: the frames in order as images, then the prompt; a plain string without frames."""
    if request.frames is None:
        return [{"role": "user", "content": request.prompt}]
    images = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in request.frames]
    return [{"role": "user", "content": [*images, {"type": "text", "text": request.prompt}]}]


def _data_url(frame: np.ndarray) -> str:
    """A frame uint8 [H, W, 3] in RGB as a PNG: lossless, the server sees what training sees."""
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert done, f"no PNG of {frame.shape}"
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def cache_key(fields: Mapping[str, Any], request: Request) -> str:
    """A hash of all that an answer depends on: settings with model and seed, words, and pixels.

    Of the pixels, not of their PNGs: another version of the encoder asks for nothing anew.
    """
    shape = [] if request.frames is None else list(request.frames.shape)
    head = json.dumps([fields, request.prompt, request.seed, shape], sort_keys=True)
    digest = hashlib.sha256(head.encode())
    if request.frames is not None:
        digest.update(np.ascontiguousarray(request.frames).tobytes())
    return digest.hexdigest()


def read_reply(status: int, headers: Mapping[str, str], body: bytes, *, secret: str = "") -> Answer:
    """The answer in a reply; raises Passing or Refused, with the server's reason less the secret."""
    if status >= 500 or status in PASSING:
        wait_seconds = retry_after_seconds(headers.get("retry-after", ""))
        raise Passing(f"HTTP {status}: {quote(_error_message(body), secret)}", wait_seconds)
    if not 200 <= status < 300:
        raise Refused(f"HTTP {status}: {quote(_error_message(body), secret)}")
    try:
        choice = json.loads(body)["choices"][0]
        text, reason = _content(choice["message"]["content"]), choice["finish_reason"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise Passing(f"no chat completion: {quote(body.decode(errors='replace'), secret)}") from None
    if reason in ("abort", "error"):
        raise Passing(f"the server gave up: finish_reason {reason!r}")
    return Answer(text.strip(), is_whole=reason == "stop")


def _content(content: Any) -> str:
    """A message's text: null is empty, parts are joined; half of a surrogate pair becomes a question mark."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise TypeError(type(content))
    return (content or "").encode("utf-8", "replace").decode()


def _error_message(body: bytes) -> str:
    """What an error reply says, in whichever of the usual places."""
    text = body.decode(errors="replace")
    try:
        data: Any = json.loads(text)
        error = data.get("error", data)
        return (
            str(error.get("message") or error.get("detail") or text)
            if isinstance(error, dict)
            else str(error)
        )
    except (ValueError, AttributeError, RecursionError):
        return text


def quote(text: str, secret: str = "") -> str:
    """A server's words on one line, cut; some servers repeat the key that they refuse."""
    line = " ".join(text.split())
    # Before the cut, which could leave a part of it.
    line = line.replace(secret, "***") if secret else line
    return line if len(line) <= QUOTE_LENGTH else line[:QUOTE_LENGTH] + " ..."


def retry_after_seconds(value: str) -> float:
    """How long a Retry-After header asks to wait, in seconds or until a date; 0 where it says nothing."""
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def read_key(config: EndpointConfig) -> str:
    """The key of a server, empty where none is asked for; raises ValueError, which never shows it."""
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ValueError(f"endpoint.api_key_env: the environment variable {config.api_key_env} is not set")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(
            f"endpoint.api_key_env: {config.api_key_env} holds no key: letters that no header takes"
        )
    return key
