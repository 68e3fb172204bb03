"""A Responses request as the chat that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.router.gateway.field_names import FieldNames
from services.router.gateway.request_body import check_model_fields
from services.router.gateway.responses_api.conversation import Chat
from services.router.gateway.responses_api.items import AnyItem, MessageItem
from services.router.gateway.responses_api.schemas import (
    AllowedTools,
    FormatJsonObject,
    FormatJsonSchema,
    FunctionChoice,
    FunctionTool,
    ResponsesRequest,
)
from services.router.gateway.schemas import ChatRequest
from services.router.requests.errors import InvalidRequest

SAME = (
    *("model", "temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty"),
    *("parallel_tool_calls", "stop", "ignore_eos", "cache_salt", "priority"),
)
FIELDS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
    "tools[].function": "tools[]",
}


def input_items(body: ResponsesRequest) -> list[AnyItem]:
    """Returns what the request adds to the conversation."""
    if isinstance(body.input, str):
        return [MessageItem(role="user", content=body.input)]
    return list(body.input)


def chat_request(body: ResponsesRequest, before: Sequence[AnyItem]) -> tuple[ChatRequest, FieldNames]:
    """Returns the chat, and what the caller calls its fields. `before`: the conversation that the request continues.

    Raises InvalidRequest.
    """
    chat = Chat()
    if body.instructions is not None:
        chat.append({"role": "system", "content": body.instructions}, "instructions")
    for item in before:
        chat.add(item, "previous_response_id")
    for number, item in enumerate(input_items(body)):
        chat.add(item, "input" if isinstance(body.input, str) else f"input[{number}]")
    if not chat.messages or (not before and not body.input and not isinstance(body.input, str)):
        raise InvalidRequest("input needs at least one item.", param="input")
    names = FieldNames(FIELDS, chat.places)
    with names.of_the_caller():
        return check_model_fields({"messages": chat.messages, **_options(body)}, ChatRequest), names


def _options(body: ResponsesRequest) -> dict[str, Any]:
    options = {name: value for name in SAME if (value := getattr(body, name)) is not None}
    if body.max_output_tokens is not None:
        options["max_completion_tokens"] = body.max_output_tokens
    if body.tools:
        options["tools"] = [_tool(tool) for tool in body.tools]
    if isinstance(body.tool_choice, FunctionChoice):
        options["tool_choice"] = _named(body.tool_choice)
    elif isinstance(body.tool_choice, AllowedTools):
        allowed = {"mode": body.tool_choice.mode, "tools": [_named(tool) for tool in body.tool_choice.tools]}
        options["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    elif body.tool_choice is not None:
        options["tool_choice"] = body.tool_choice
    if body.reasoning is not None and body.reasoning.effort is not None:
        options["reasoning_effort"] = body.reasoning.effort
    if body.wants_logprobs:
        options |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if (wanted := _format(body)) is not None:
        options["response_format"] = wanted
    return options


def _named(choice: FunctionChoice) -> dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    function = {name: value for name, value in function.items() if value is not None}
    return {"type": "function", "function": function | ({} if tool.strict is None else {"strict": tool.strict})}


def _format(body: ResponsesRequest) -> dict[str, Any] | None:
    """Returns the chat's response_format; None for plain text."""
    wanted = body.text.format if body.text is not None else None
    if isinstance(wanted, FormatJsonObject):
        return {"type": "json_object"}
    if isinstance(wanted, FormatJsonSchema):
        return {
            "type": "json_schema",
            "json_schema": wanted.model_dump(by_alias=True, exclude={"type"}, exclude_none=True),
        }
    return None
