"""A Messages request as the chat that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.router.gateway.field_names import FieldNames
from services.router.gateway.json_bytes import json_bytes
from services.router.gateway.messages_api.schemas import (
    CountTokensRequest,
    CustomTool,
    MessageParam,
    MessagesRequest,
    TextBlockParam,
    ThinkingBlockParam,
    ToolChoice,
    ToolResultBlockParam,
    ToolUseBlockParam,
)
from services.router.gateway.request_body import check_model_fields
from services.router.gateway.schemas import ChatRequest
from services.router.requests.errors import InvalidRequest

FAILED = "Error: "  # before the result of a tool that failed, since chats have no other way to say so
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
FIELDS = {
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "tool_choice.function": "tool_choice",
    "tools[].function": "tools[]",
    "tools[].function.parameters": "tools[].input_schema",
}


def chat_request(body: CountTokensRequest) -> tuple[ChatRequest, FieldNames]:
    """Returns the chat, and what the caller calls its fields. Raises InvalidRequest."""
    chat = Chat()
    if body.system:
        chat.append({"role": "system", "content": plain(body.system)}, "system")
    for number, message in enumerate(body.messages):
        chat.add(message, f"messages[{number}]")
    options = _options(body)
    names = FIELDS
    if chat.messages[-1]["role"] == "assistant":  # the answer goes on where this message ends
        options |= {"continue_final_message": True, "add_generation_prompt": False}
        names = FIELDS | dict.fromkeys(("continue_final_message", "add_generation_prompt"), chat.places[-1])
    found = FieldNames(names, chat.places)
    with found.of_the_caller():
        return check_model_fields({"messages": chat.messages, **options}, ChatRequest), found


class Chat:
    """Messages of a chat, with the place that each came from, for errors."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[str] = []
        self._calls: set[str] = set()

    def append(self, message: dict[str, Any], place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def add(self, message: MessageParam, place: str) -> None:
        """Adds a message. Raises InvalidRequest for a block that its role cannot have."""
        if isinstance(message.content, str):
            self.append({"role": message.role, "content": message.content}, place)
        elif message.role == "assistant":
            self._add_answer(message, place)
        else:
            self._add_input(message, place)

    def _add_answer(self, message: MessageParam, place: str) -> None:
        texts, thoughts, calls = [], [], []
        for number, block in enumerate(message.content):
            if isinstance(block, TextBlockParam):
                texts.append(block.text)
            elif isinstance(block, ThinkingBlockParam):
                thoughts.append(block.thinking)
            elif isinstance(block, ToolUseBlockParam):
                self._calls.add(block.id)
                function = {"name": block.name, "arguments": json_bytes(block.input).decode()}
                calls.append({"id": block.id, "type": "function", "function": function})
            elif isinstance(block, ToolResultBlockParam):
                raise _misplaced(f"{place}.content[{number}]", block.type, message.role)
        answer: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
        if thought := "".join(thoughts):
            answer["reasoning"] = thought
        self.append(answer | ({"tool_calls": calls} if calls else {}), place)

    def _add_input(self, message: MessageParam, place: str) -> None:
        """Each result of a tool is a message of its own; texts that follow each other are one."""
        texts: list[str] = []
        for number, block in enumerate(message.content):
            at = f"{place}.content[{number}]"
            if isinstance(block, TextBlockParam):
                texts.append(block.text)
            elif isinstance(block, ToolResultBlockParam) and message.role == "user":
                if texts:
                    self.append({"role": message.role, "content": "".join(texts)}, place)
                    texts = []
                self._add_result(block, at)
            else:
                raise _misplaced(at, getattr(block, "type", "block"), message.role)
        if texts or not message.content:
            self.append({"role": message.role, "content": "".join(texts)}, place)

    def _add_result(self, block: ToolResultBlockParam, place: str) -> None:
        if block.tool_use_id not in self._calls:
            raise InvalidRequest(
                f"{place}.tool_use_id: there is no tool_use block with this id before it.", param=f"{place}.tool_use_id"
            )
        content = (FAILED if block.is_error else "") + plain(block.content or "")
        self.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content}, place)


def plain(content: str | Sequence[TextBlockParam]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def _misplaced(place: str, kind: str, role: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: a message of role {role} has no {kind} blocks.", param=place)


def _options(body: CountTokensRequest) -> dict[str, Any]:
    options: dict[str, Any] = {"model": body.model}
    if isinstance(body, MessagesRequest):
        sampled = {name: getattr(body, name) for name in ("max_tokens", "temperature", "top_p", "top_k")}
        sampled["stop"] = body.stop_sequences or None
        options |= {name: value for name, value in sampled.items() if value is not None}
    if body.tools:
        options["tools"] = [_tool(tool) for tool in body.tools]
    if body.tool_choice is not None:
        options["tool_choice"] = _choice(body.tool_choice)
        if body.tool_choice.disable_parallel_tool_use:
            options["parallel_tool_calls"] = False
    if body.thinking is not None and body.thinking.type != "adaptive":
        options["thinking"] = {"type": body.thinking.type}
    if body.thinking is not None and body.thinking.budget_tokens is not None:
        options["thinking_token_budget"] = body.thinking.budget_tokens
    if body.output_config is not None and body.output_config.effort is not None:
        options["reasoning_effort"] = body.output_config.effort
    if body.output_config is not None and body.output_config.format is not None:
        schema = {"name": "output", "schema": body.output_config.format.schema_}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return options


def _choice(choice: ToolChoice) -> Any:
    if choice.type != "tool":
        return CHOICES[choice.type]
    if choice.name is None:
        raise InvalidRequest(
            "tool_choice.name is required.", param="tool_choice.name", code="missing_required_parameter"
        )
    return {"type": "function", "function": {"name": choice.name}}


def _tool(tool: CustomTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    return {"type": "function", "function": function | ({} if tool.strict is None else {"strict": tool.strict})}
