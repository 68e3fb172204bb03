"""Turns the items of a conversation into the messages of a chat, and into the form in which they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from services.router.gateway.responses_api.items import (
    AnyItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    MessageItem,
    ReasoningItem,
    text_of,
)
from services.router.gateway.responses_api.objects import (
    OutputFunctionCall,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningPart,
    new_id,
)
from services.router.gateway.responses_api.reasoning_text import decoded
from services.router.requests.errors import InvalidRequest

Message = dict[str, Any]


class Chat:
    """Messages of a chat, with the place that each came from, for errors."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.places: list[str] = []
        self._calls: set[str] = set()
        self._turn: Message | None = None  # the assistant's, while its items follow each other
        self._after_text = False  # whether the turn's last item is a text

    def add(self, item: AnyItem, place: str) -> None:
        """Adds an item. Raises InvalidRequest for one that belongs to nothing or cannot be read."""
        if isinstance(item, FunctionCallOutputItem):
            if item.call_id not in self._calls:
                raise InvalidRequest(
                    f"{place}.call_id: there is no function call with this id before it.", param=f"{place}.call_id"
                )
            self.append({"role": "tool", "tool_call_id": item.call_id, "content": text_of(item.output)}, place)
        elif isinstance(item, MessageItem) and item.role != "assistant":
            self.append({"role": item.role, "content": text_of(item.content)}, place)
        else:
            self._add_to_turn(item, place)

    def append(self, message: Message, place: str) -> None:
        """Adds a message; it ends the assistant's turn."""
        self._turn = None
        self.messages.append(message)
        self.places.append(place)

    def _add_to_turn(self, item: MessageItem | FunctionCallItem | ReasoningItem, place: str) -> None:
        """One message has all that an answer consists of, as in chats; two texts in a row are two messages."""
        is_text = isinstance(item, MessageItem)
        turn = self._turn
        if turn is None or (is_text and self._after_text):
            turn = {"role": "assistant", "content": None}
            self.append(turn, place)
            self._turn = turn
        self._after_text = is_text
        if isinstance(item, MessageItem):
            turn["content"] = (turn["content"] or "") + text_of(item.content)
        elif isinstance(item, FunctionCallItem):
            self._calls.add(item.call_id)
            function = {"name": item.name, "arguments": item.arguments}
            turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
        elif thought := thought_of(item, place):
            turn["reasoning"] = turn.get("reasoning", "") + thought


def thought_of(item: ReasoningItem, place: str) -> str:
    """Returns the text of a reasoning item. Raises InvalidRequest for one that only another server can read."""
    thought = "".join(part.text for part in item.content or [])
    if not thought and item.encrypted_content:
        if (encrypted := decoded(item.encrypted_content)) is not None:
            return encrypted
        if not item.summary:
            raise InvalidRequest(
                f"{place}.encrypted_content cannot be read here: this server has not made it.",
                param=f"{place}.encrypted_content",
                code="unsupported_parameter",
            )
    return thought or "".join(part.text for part in item.summary or [])


def stored(items: Iterable[AnyItem]) -> list[dict[str, Any]]:
    """Returns items as they are stored and listed: each has an id, a status and its content in parts."""
    return [_stored(item) for item in items]


def _stored(item: AnyItem) -> dict[str, Any]:
    if isinstance(item, FunctionCallOutputItem):
        return {
            "id": item.id or new_id("fco"),
            "type": "function_call_output",
            "status": "completed",
            "call_id": item.call_id,
            "output": text_of(item.output),
        }
    if isinstance(item, FunctionCallItem):
        call = OutputFunctionCall(call_id=item.call_id, name=item.name, arguments=item.arguments)
        return _with_id(call.model_dump(), item.id)
    if isinstance(item, ReasoningItem):
        thought = OutputReasoning(content=[ReasoningPart(text=thought_of(item, "input"))])
        return _with_id(thought.model_dump(), item.id)
    if item.role == "assistant":
        message = OutputMessage(content=[OutputText(text=text_of(item.content))])
        return _with_id(message.model_dump(), item.id)
    content = [{"type": "input_text", "text": text_of(item.content)}]
    return _with_id({"type": "message", "role": item.role, "status": "completed", "content": content}, item.id)


def _with_id(item: dict[str, Any], given: str | None) -> dict[str, Any]:
    return item | {"id": given or item.get("id") or new_id("msg")}


def stored_output(output: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns items of an answer as they are stored: log-probabilities would be many times the text."""
    return [_stored_output(item) for item in output]


def _stored_output(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] == "message":
        return item | {"content": [part | {"logprobs": []} for part in item["content"]]}
    return item | {"encrypted_content": None} if item["type"] == "reasoning" else item
