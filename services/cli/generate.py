"""Streams an answer from a gateway over HTTP, with the standard library."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

from services.cli.gateway_url import gateway_parts

TIMEOUT_S = 120.0  # without a byte


class RequestFailed(Exception):
    """The gateway cannot be reached or rejects the request. The message is one line."""


class NoChatTemplate(RequestFailed):
    """The model has no chat template: it continues text, and takes no messages."""


def stream_answer(url: str, prompt: str, **options: Any) -> Iterator[str]:
    """Yields the answer to a message, or what follows the text if the model has no chat template.

    Raises RequestFailed.
    """
    try:
        yield from stream_chat(url, prompt, **options)
    except NoChatTemplate:
        yield from stream_completion(url, prompt, **options)


def stream_completion(
    url: str, prompt: str, timeout_s: float = TIMEOUT_S, api_key: str = "", **options: Any
) -> Iterator[str]:
    """Yields the text that follows the prompt. `options` are further fields of the body. Raises RequestFailed."""
    body = {"prompt": prompt, "stream": True, **options}
    for choice in _choices(url, "/v1/completions", body, timeout_s, api_key):
        if text := choice.get("text"):
            yield text


def stream_chat(
    url: str, prompt: str, timeout_s: float = TIMEOUT_S, api_key: str = "", **options: Any
) -> Iterator[str]:
    """Yields the text deltas of the answer. `options` are further fields of the request body.

    Raises RequestFailed, NoChatTemplate when the model takes no messages.
    """
    for delta in stream_deltas(url, [{"role": "user", "content": prompt}], timeout_s, api_key, **options):
        if text := delta.get("content"):
            yield text


def stream_deltas(
    url: str, messages: list[dict[str, Any]], timeout_s: float = TIMEOUT_S, api_key: str = "", **options: Any
) -> Iterator[dict[str, Any]]:
    """Yields the deltas of the answer as the API has them: `content`, `reasoning_content`, `tool_calls`.

    Raises as `stream_chat` does.
    """
    body = {"messages": messages, "stream": True, **options}
    for choice in _choices(url, "/v1/chat/completions", body, timeout_s, api_key):
        yield choice.get("delta") or {}


def _choices(url: str, path: str, body: Mapping[str, Any], timeout_s: float, api_key: str) -> Iterator[dict[str, Any]]:
    for event in _events(url, path, body, timeout_s, api_key):
        if error := event.get("error"):
            raise RequestFailed(str(error.get("message", error)))
        yield from event.get("choices", ())


def _events(url: str, path: str, body: Mapping[str, Any], timeout_s: float, api_key: str) -> Iterator[dict[str, Any]]:
    try:
        parts = gateway_parts(url)
    except ValueError as error:
        raise RequestFailed(str(error)) from None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=timeout_s)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    try:
        connection.request("POST", parts.path.rstrip("/") + path, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise _failure(response)
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[len(b"data: ") :])
    except (OSError, http.client.HTTPException) as error:
        raise RequestFailed(f"{url}: {error or type(error).__name__}") from None
    finally:
        connection.close()


def _failure(response: http.client.HTTPResponse) -> RequestFailed:
    text = response.read().decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        kind = NoChatTemplate if error.get("code") == "no_chat_template" else RequestFailed
        return kind(str(error["message"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return RequestFailed(f"the gateway answers {response.status}: {text[:200]}")
