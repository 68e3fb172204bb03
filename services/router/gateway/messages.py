"""Turns a request's messages into what chat templates expect: text, tool arguments as objects, names of tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.router.gateway.chat_messages import ChatMessage, FunctionCall
from services.router.gateway.request_body import parse_json
from services.router.requests.errors import InvalidRequest
from services.router.requests.template import Message

SAME_ROLE = {"developer": "system", "function": "tool"}  # a newer and an older name of roles that templates know


def plain_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Returns the messages for a template. Raises InvalidRequest naming the message."""
    plain: list[Message] = []
    names: dict[str, str] = {}  # of the tools called so far, by the id of the call
    for number, message in enumerate(messages):
        one = _plain(message, number)
        if one["role"] == "tool" and one.get("tool_call_id") in names:
            one.setdefault("name", names[one["tool_call_id"]])
        names |= {call.id: call.function.name for call in message.tool_calls or () if call.id is not None}
        plain.append(one)
    return plain


def _plain(message: ChatMessage, number: int) -> Message:
    plain: Message = {"role": SAME_ROLE.get(message.role, message.role), "content": _content(message, number)}
    for field in ("name", "tool_call_id"):
        if (value := getattr(message, field)) is not None:
            plain[field] = value
    reasoning = message.reasoning or message.reasoning_content or message.thinking
    if reasoning is not None:  # under each name that templates read
        plain |= {"reasoning_content": reasoning, "reasoning": reasoning, "thinking": reasoning}
    if message.tool_calls:
        plain["tool_calls"] = [_call(call.function, call.id) for call in message.tool_calls]
    elif message.function_call:  # the older form of one call
        plain["tool_calls"] = [_call(message.function_call)]
    return plain


def _content(message: ChatMessage, number: int) -> str:
    if message.content is None:
        if message.role != "assistant":
            raise InvalidRequest(
                f"messages[{number}].content is required.",
                param=f"messages[{number}].content",
                code="missing_required_parameter",
            )
        return ""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.type not in ("text", "input_text") or part.text is None:
            raise InvalidRequest(
                f"messages[{number}].content: this model takes only parts of type text.",
                param=f"messages[{number}].content",
                code="unsupported_content_type",
            )
    return "".join(part.text or "" for part in message.content)


def _call(function: FunctionCall, call_id: str | None = None) -> dict[str, Any]:
    call = {"name": function.name, "arguments": _arguments(function.arguments)}
    return {"type": "function", "function": call} | ({} if call_id is None else {"id": call_id})


def _arguments(given: Any) -> dict[str, Any]:
    """Returns the arguments of an earlier call as an object, which templates walk.

    A model may have written anything, and it stays in the history: what is no object becomes an empty one.
    """
    if isinstance(given, str):
        try:
            given = parse_json(given.encode())
        except InvalidRequest:
            return {}
    return given if isinstance(given, dict) else {}
