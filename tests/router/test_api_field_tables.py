"""Every field of the SDKs' calls of these APIs is honoured, harmless, or rejected by name; others are unknown."""

from __future__ import annotations

from typing import Any

import pytest
from support.api_fields import ANTHROPIC_BETA, ANTHROPIC_COUNT, ANTHROPIC_MESSAGES, OPENAI_RESPONSES

from services.router.gateway.closed_model import Closed
from services.router.gateway.messages_api.schemas import CountTokensRequest, MessagesRequest
from services.router.gateway.request_body import check_model_fields
from services.router.gateway.responses_api.schemas import ResponsesRequest
from services.router.requests.errors import InvalidRequest

MESSAGES: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[type[Closed], dict[str, Any]] = {
    ResponsesRequest: {"input": "hi"},
    MessagesRequest: MESSAGES | {"max_tokens": 5},
    CountTokensRequest: MESSAGES,
}
EACH = pytest.mark.parametrize("body_type", BODIES)


def error_of(body_type: type[Closed], **more: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check_model_fields(BODIES[body_type] | more, body_type)
    return caught.value


def table_of(body_type: type[Closed]) -> set[str]:
    table = body_type.field_table
    assert isinstance(table.harmless, frozenset)
    return {*table.harmless, *table.only_as, *table.unsupported, *body_type.model_fields}


@pytest.mark.parametrize(
    ("fields", "body_type"),
    [
        (OPENAI_RESPONSES, ResponsesRequest),
        (ANTHROPIC_MESSAGES | ANTHROPIC_BETA, MessagesRequest),
        (ANTHROPIC_COUNT, CountTokensRequest),
    ],
)
def test_no_field_of_the_official_clients_is_unknown(fields: frozenset[str], body_type: type[Closed]) -> None:
    assert len(fields) > 8
    assert not fields - table_of(body_type)


@EACH
def test_no_field_is_in_two_tables(body_type: type[Closed]) -> None:
    table = body_type.field_table
    assert isinstance(table.harmless, frozenset)
    listed = [*table.harmless, *table.only_as, *table.unsupported, *body_type.model_fields]
    assert sorted(set(listed)) == sorted(listed)


@EACH
@pytest.mark.parametrize("name", ["some_unknown_field", "Temperature", "max_token", "", "a" * 500, "prompt_ids"])
@pytest.mark.parametrize("value", [None, False, 0, {}])
def test_an_unknown_field_is_rejected_by_name(body_type: type[Closed], name: str, value: Any) -> None:
    error = error_of(body_type, **{name: value})
    assert (error.code, error.param) == ("unknown_parameter", name[:60])


@EACH
def test_what_is_not_honoured_is_rejected_unless_it_is_off(body_type: type[Closed]) -> None:
    table = body_type.field_table
    for name in table.unsupported:
        error = error_of(body_type, **{name: {"a": "value"}})
        assert (error.code, error.param) == ("unsupported_parameter", name)
        check_model_fields(BODIES[body_type] | {name: None}, body_type)
    for name, accepted in table.only_as.items():
        for value in (None, *accepted):
            check_model_fields(BODIES[body_type] | {name: value}, body_type)
        error = error_of(body_type, **{name: "another"})
        assert (error.code, error.param) == ("unsupported_value", name)


NESTED: dict[str, tuple[type[Closed], dict[str, Any], str, str]] = {
    "verbosity": (ResponsesRequest, {"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_value"),
    "summary": (ResponsesRequest, {"reasoning": {"summary": "detailed"}}, "reasoning.summary", "unsupported_value"),
    "pro": (ResponsesRequest, {"reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_value"),
    "text_typo": (ResponsesRequest, {"text": {"formt": {}}}, "text.formt", "unknown_parameter"),
    "defer": (
        ResponsesRequest,
        {"tools": [{"type": "function", "name": "f", "defer_loading": True}]},
        "tools[0].defer_loading",
        "unsupported_value",
    ),
    "thinking_typo": (MessagesRequest, {"thinking": {"type": "adaptive", "tokens": 1}}, "thinking.tokens", ""),
    "examples": (
        MessagesRequest,
        {"tools": [{"name": "f", "input_schema": {}, "input_examples": [{"a": 1}]}]},
        "tools[0].input_examples",
        "unsupported_value",
    ),
    "budget": (MessagesRequest, {"output_config": {"task_budget": {}}}, "output_config.task_budget", ""),
}


@pytest.mark.parametrize("name", NESTED)
def test_fields_of_objects_within_a_body_are_rejected_by_their_path(name: str) -> None:
    body_type, fields, param, code = NESTED[name]
    error = error_of(body_type, **fields)
    assert error.param == param
    assert error.code.startswith("un")
    assert not code or error.code == code
    assert param in error.message
