"""Errors within objects name the field by the path that a client knows, and say what is expected there."""

from __future__ import annotations

from typing import Any

import pytest

from services.router.gateway.request_body import check_model_fields
from services.router.gateway.schemas import ChatRequest
from services.router.requests.errors import InvalidRequest

HI: list[Any] = [{"role": "user", "content": "hi"}]
F = {"type": "function", "function": {"name": "f"}}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "content_object": ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
    "content_str": ({"messages": [{"role": "user", "content": {"str": 1}}]}, "messages[0].content"),
    "part_type": ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type"),
    "part_number": ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
    "part_text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages[0].content[0].text",
    ),
    "call_name": (
        {"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]},
        "messages[1].tool_calls[0].function.name",
    ),
    "tool_choice_number": ({"messages": HI, "tool_choice": 5, "tools": [F]}, "tool_choice"),
    "tool_choice_function": (
        {"messages": HI, "tool_choice": {"type": "function"}, "tools": [F]},
        "tool_choice.function",
    ),
    "tool_choice_allowed": (
        {"messages": HI, "tool_choice": {"type": "allowed_tools"}, "tools": [F]},
        "tool_choice.allowed_tools",
    ),
}


def error_of(fields: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check_model_fields({"messages": HI} | fields, ChatRequest)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_the_path_of_a_field(name: str) -> None:
    fields, param = CASES[name]
    error = error_of(fields)
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": 3}, "stop: Input should be a valid string or a valid list, not 3."),
        ({"tool_choice": 5}, "tool_choice: Input should be 'none', 'auto' or 'required', not 5."),
        ({"tools": [5]}, "tools[0]: Input should be an object, not 5."),
        ({"response_format": []}, "response_format: Input should be an object."),
        ({"guided_json": 5}, "guided_json: Input should be an object or a valid boolean or a valid string, not 5."),
        ({"thinking": {"type": "enabled", "x": 1}}, "Unknown parameter: 'thinking.x'."),
        ({"structured_outputs": {"json_": {}}}, "Unknown parameter: 'structured_outputs.json_'."),
        ({"tools": [{"type": "function"}]}, "tools[0].function is required."),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_what_is_expected_is_said_without_names_of_ours(fields: dict[str, Any], message: str) -> None:
    assert error_of(fields).message == message
