"""One streaming request to a completions endpoint, and the times at which its parts arrive."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from services.cli.load.outcome import Outcome
from services.cli.load.prompts import Prompt
from services.cli.load.settings import Load

ERROR_CHARS = 300


class ServerError(Exception):
    """The endpoint rejects a request, or ends its stream with an error. The message is one line."""


def request_body(load: Load, model: str, prompt: Prompt) -> dict[str, Any]:
    """The body of one request: streamed, with the server's count of tokens at the end."""
    if load.chat:
        content: dict[str, Any] = {"messages": prompt.messages or [{"role": "user", "content": prompt.text}]}
        limit = "max_completion_tokens"
    else:
        content, limit = {"prompt": prompt.text}, "max_tokens"
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": model, **content, limit: prompt.output_len, **stream, **load.body}


async def send(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Outcome:
    """Sends one request and reads its stream to the end; whatever goes wrong is in the outcome."""
    outcome = Outcome(time.perf_counter())
    try:
        async with session.post(url, json=body) as response:
            if response.status != 200:
                raise ServerError(f"{response.status}: {error_message(await response.text(errors='replace'))}")
            await _read(response, outcome)
    except ServerError as error:
        outcome.error = str(error)
    # A server that is not quite OpenAI's: the first wrong type ends in one of the last three.
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, TypeError, AttributeError) as error:
        outcome.error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except asyncio.CancelledError:
        outcome.error = "interrupted"
        raise
    return outcome


async def _read(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    """Reads the events. An event counts as a part of the answer if it has text: the first chunk of a chat may have
    only a role, and is sent before there is a token."""
    started, last, ended, events = outcome.start, outcome.start, False, 0
    parts: list[str] = []
    async for data in _data(response):
        now = time.perf_counter()
        if data == b"[DONE]":
            ended = True
            continue
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ServerError(f"an event is not an object: {data[:ERROR_CHARS].decode(errors='replace')}")
        if error := event.get("error"):
            raise ServerError(str(error.get("message", error) if isinstance(error, dict) else error))
        if usage := event.get("usage"):
            outcome.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            outcome.output_tokens = int(usage.get("completion_tokens") or 0)
        for choice in event.get("choices") or ():
            ended = ended or bool(choice.get("finish_reason"))
            outcome.latency = now - started
            if text := _text(choice):
                if events:
                    outcome.itls.append(now - last)
                else:
                    outcome.ttft = now - started
                events, last = events + 1, now
                parts.append(text)
    outcome.text = "".join(parts)
    if not ended:
        raise ServerError("the stream ended before the answer did")
    if not outcome.output_tokens:
        outcome.counted, outcome.output_tokens = not events, events
    if not events:
        outcome.ttft = outcome.latency


async def _data(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each event, however events and network packets overlap."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


def _text(choice: dict[str, Any]) -> str:
    """The text of a choice: of a completion, or of a delta, its reasoning and its tool calls."""
    if text := choice.get("text"):
        return str(text)
    delta = choice.get("delta") or {}
    calls = [call.get("function") or {} for call in delta.get("tool_calls") or ()]
    found = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    return str(found or "".join(str(one.get("name") or "") + str(one.get("arguments") or "") for one in calls))


def error_message(text: str) -> str:
    """The message in an error's body, in any of the usual forms."""
    try:
        raw = json.loads(text)
        error = raw.get("error", raw)
        message = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        message = text
    return " ".join(str(message).split())[:ERROR_CHARS]
