"""Sends held-out dialogues to an OpenAI-compatible server and compares every answer."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from training.data.chat import CALL, END_CALL, reply
from training.data.dialogues import Dialogue


@dataclass(frozen=True)
class Verdict:
    """One answer: the expected and the given text."""

    category: str
    expected: str
    given: str

    @property
    def exact(self) -> bool:
        return self.expected == self.given


def replay(
    url: str, model: str, dialogues: list[Dialogue], parallel: int, done: Callable[[], None]
) -> list[list[Verdict]]:
    """Returns verdicts by dialogue, for greedy answers to the expected history. Calls `done` after each dialogue."""

    def evaluate(dialogue: Dialogue) -> list[Verdict]:
        verdicts = [_ask(url, model, dialogue, answer.index, answer.category) for answer in dialogue.answers]
        done()
        return verdicts

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(evaluate, dialogues))


def _ask(url: str, model: str, dialogue: Dialogue, index: int, category: str) -> Verdict:
    body: dict[str, Any] = {
        "model": model,
        "messages": dialogue.messages[:index],
        "temperature": 0,
        "max_tokens": 96,
    }
    if dialogue.tools:
        body["tools"] = dialogue.tools
    message = post(f"{url}/v1/chat/completions", body)["choices"][0]["message"]
    return Verdict(category, reply(dialogue.messages[index]), _as_text(message))


def _as_text(message: dict[str, Any]) -> str:
    """Returns the message as the model wrote it, whether or not the server has parsed its tool calls."""
    content = message.get("content") or ""
    if CALL in content and END_CALL in content:
        return str(content)
    return reply({"content": content, "tool_calls": message.get("tool_calls") or []})


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        value: dict[str, Any] = json.load(response)
    return value


def served_model(url: str) -> str:
    """Returns the first model that the server lists."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as response:
        return str(json.load(response)["data"][0]["id"])
