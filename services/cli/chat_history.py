"""The messages of a chat, and what a streamed answer adds to them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """An answer as it streams. A part is (kind, text) with the kind content, reasoning or tool."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)  # by index

    def take(self, delta: dict[str, Any]) -> list[tuple[str, str]]:
        """Adds a delta of the API; returns what to show of it."""
        parts = []
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            self.reasoning += reasoning
            parts.append(("reasoning", str(reasoning)))
        if content := delta.get("content"):
            self.content += content
            parts.append(("content", str(content)))
        for call in delta.get("tool_calls") or ():
            parts.append(("tool", self._call(call)))
        return [part for part in parts if part[1]]

    def message(self) -> dict[str, Any]:
        """The answer as a message of the history."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.calls:
            message["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return message

    def _call(self, delta: dict[str, Any]) -> str:
        """Adds a part of a call; returns its text, which begins with the name and a bracket."""
        function = delta.get("function") or {}
        name, arguments = str(function.get("name") or ""), str(function.get("arguments") or "")
        empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call = self.calls.setdefault(int(delta.get("index", 0)), empty)
        call["id"] = delta.get("id") or call["id"]
        call["function"]["name"] += name
        call["function"]["arguments"] += arguments
        return f"{name} {arguments}" if name else arguments


@dataclass(slots=True)
class History:
    """The messages so far. `system` is sent as the first one unless it is empty."""

    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def to_send(self) -> list[dict[str, Any]]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    @property
    def awaited(self) -> dict[str, Any] | None:
        """The first tool call of the last answer without a result; None when it is the user's turn."""
        answered = set()
        for message in reversed(self.messages):
            if message["role"] == "tool":
                answered.add(message["tool_call_id"])
                continue
            calls: list[dict[str, Any]] = message.get("tool_calls") or []
            return next((call for call in calls if call["id"] not in answered), None)
        return None

    def add(self, text: str) -> bool:
        """Adds what the user wrote: a message, or the awaited result; returns whether the model is to answer now."""
        if call := self.awaited:
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        else:
            self.messages.append({"role": "user", "content": text})
        return self.awaited is None
