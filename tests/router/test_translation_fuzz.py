"""Whatever a Responses or Messages body is, it becomes a chat or an error that names a field; never anything else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.gateway.messages_api import translation as messages
from services.router.gateway.messages_api.schemas import MessagesRequest
from services.router.gateway.request_body import check_model_fields
from services.router.gateway.responses_api import translation as responses
from services.router.gateway.responses_api.conversation import stored
from services.router.gateway.responses_api.items import ITEMS
from services.router.gateway.responses_api.schemas import ResponsesRequest
from services.router.gateway.schemas import ChatRequest
from services.router.requests.errors import InvalidRequest

RESPONSES: dict[str, Any] = {
    "model": "m",
    "instructions": "be brief",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "b"}]},
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
        {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "x", "output": [{"type": "input_text", "text": "d"}]},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "description": "g"}],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {"include_obfuscation": False},
}
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "b", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "c"},
                {"type": "tool_use", "id": "x", "name": "f", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "d", "is_error": True}]},
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}, "description": "g"}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
    "thinking": {"type": "enabled"},
    "output_config": {"effort": "low"},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "me"},
}
WORDS = (
    "type",
    "text",
    "content",
    "role",
    "user",
    "assistant",
    "function_call",
    "reasoning",
    "tool_use",
    "tool_result",
)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(WORDS))
JSON = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=6,
)


def respond(body: Any) -> ChatRequest:
    request = check_model_fields(body, ResponsesRequest)
    items = responses.input_items(request)
    again = ITEMS.validate_python(stored(items))
    first, _ = responses.chat_request(request, [])
    second, _ = responses.chat_request(request.model_copy(update={"input": again}), [])
    assert first.messages == second.messages, "what is stored says the same"
    return first


def message(body: Any) -> ChatRequest:
    chat, _ = messages.chat_request(check_model_fields(body, MessagesRequest))
    return chat


def changed(body: Any, data: st.DataObject) -> Any:
    """Returns the body with a part of it, or several, replaced, removed, or put in two times."""
    body = copy.deepcopy(body)
    for _ in range(data.draw(st.integers(1, 3))):
        place, key = body, data.draw(st.sampled_from(sorted(body)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        how = data.draw(st.sampled_from(("replace", "replace", "remove", "double")))
        if how == "remove" and len(body) > 1:
            del place[key]
        elif how == "double" and isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        else:
            place[key] = data.draw(JSON)
    return body


@pytest.mark.parametrize(
    ("body", "translate"), [(RESPONSES, respond), (MESSAGES, message)], ids=["responses", "messages"]
)
@given(data=st.data())
def test_a_changed_body_is_a_chat_or_an_invalid_request(
    body: Any, translate: Callable[[Any], ChatRequest], data: st.DataObject
) -> None:
    given_body, found = changed(body, data), None
    try:
        translate(given_body)
    except InvalidRequest as error:
        found = error
    if found is not None:
        assert 0 < len(found.message) < 500
        assert found.param is None or len(found.param) < 200


@pytest.mark.parametrize(
    ("body", "translate"), [(RESPONSES, respond), (MESSAGES, message)], ids=["responses", "messages"]
)
def test_the_bodies_themselves_are_valid(body: Any, translate: Callable[[Any], ChatRequest]) -> None:
    chat = translate(body)
    assert [one.role for one in chat.messages] == ["system", "user", "assistant", "tool"]
    answer = chat.messages[2]
    assert (answer.content, answer.reasoning) == ("c", "b")
    assert answer.tool_calls is not None
    assert answer.tool_calls[0].id == "x"
