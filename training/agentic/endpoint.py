"""An OpenAI-compatible endpoint, as an agent and as whatever other role in a task."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from training.agentic.episode import AgentFailed
from training.agentic.users import Message

TIMEOUT_S = 300
PAUSE_S = 0.5  # before a request is sent again
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxies the environment names
KEY = "OPENAI_API_KEY"  # the variable in which the official clients look for a key, too


class EndpointError(Exception):
    """The endpoint gave no answer of the form that was asked for. The text says which, and why."""


class EndpointUnavailable(EndpointError):
    """The endpoint answers nothing now, whatever it is asked: no verdict about the model behind it."""


@dataclass(frozen=True)
class Endpoint:
    """`url` ends before /v1. Without a model it is the first that the server lists.

    retry_s: for how long requests are sent again while the server is overloaded or not there.
    """

    url: str
    model: str = ""
    retry_s: float = 60.0

    @classmethod
    def open(cls, text: str, retry_s: float = 60.0) -> Endpoint:
        """Reads URL or URL#MODEL. Raises EndpointError when no server answers there."""
        url, _, model = text.partition("#")
        one = cls(url.rstrip("/").removesuffix("/v1"), model, retry_s)
        if model:
            return one
        return replace(one, model=str(replace(one, retry_s=0.0).request("/v1/models")["data"][0]["id"]))

    def request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the answer to a GET, or with a body to a POST. Raises EndpointError."""
        deadline = time.monotonic() + self.retry_s
        while True:
            try:
                return self._request(path, body)
            except EndpointUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _request(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with DIRECT.open(request, timeout=TIMEOUT_S) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            later = error.code == 429 or error.code >= 500
            kind = EndpointUnavailable if later else EndpointError
            raise kind(f"{self.url}: {error.code}: {error.read(400).decode(errors='replace')}") from None
        except ValueError as error:
            raise EndpointError(f"{self.url}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            raise EndpointUnavailable(f"{self.url}: {type(error).__name__}: {error}") from None
        return answer

    def chat(self, messages: list[Message], **fields: Any) -> Message:
        """Returns the assistant message of one chat. Raises EndpointError."""
        answer = self.request("/v1/chat/completions", {"model": self.model, "messages": messages, **fields})
        try:
            message: Message = answer["choices"][0]["message"]
        except (KeyError, IndexError, TypeError):
            raise EndpointError(f"{self.url}: no message in {json.dumps(answer)[:200]}") from None
        return message

    def json(self, instruction: str, content: Any, schema: dict[str, Any], seed: int) -> Any:
        """Returns an answer that a JSON schema binds. Raises EndpointError."""
        messages = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": json.dumps(content)},
        ]
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        text = self.chat(messages, response_format=form, seed=seed).get("content") or ""
        try:
            return json.loads(text)
        except ValueError:
            raise EndpointError(f"{self.url}: no JSON: {text[:200]!r}") from None


def seed_of(name: str) -> int:
    """Returns the seed of a request: a function of its name alone, so that it is the same in every run."""
    return crc32(name.encode())


@dataclass
class EndpointAgent:
    """The agent of one episode, called `name`: it seeds each of its replies."""

    endpoint: Endpoint
    name: str
    temperature: float
    max_tokens: int

    def reply(self, messages: list[Message], tools: tuple[dict[str, Any], ...]) -> Message:
        """Asks with ordinary tool calling.

        Raises AgentFailed when the endpoint rejects the request, EndpointUnavailable when it would reject any.
        """
        step = sum(message["role"] == "assistant" for message in messages)
        try:
            return self.endpoint.chat(
                messages,
                tools=list(tools),
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=seed_of(f"{self.name} {step}"),
            )
        except EndpointUnavailable:
            raise
        except EndpointError as error:
            raise AgentFailed(str(error)) from None
