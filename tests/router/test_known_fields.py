"""Every field of the OpenAI SDK and of vLLM's server is honoured, harmless, or rejected by name; others are unknown."""

from __future__ import annotations

from typing import Any

import pytest
from support.api_fields import OPENAI_CHAT, OPENAI_TEXT, VLLM_CHAT, VLLM_TEXT

from services.router.gateway.known_fields import HARMLESS, OFF, ONLY_AS, UNSUPPORTED
from services.router.gateway.request_body import check_model_fields
from services.router.gateway.schemas import ChatRequest, CompletionRequest, Sampled
from services.router.requests.errors import InvalidRequest

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"prompt": "hi"}
BODIES: dict[type[Sampled], dict[str, Any]] = {ChatRequest: CHAT, CompletionRequest: TEXT}
EACH = pytest.mark.parametrize("body_type", BODIES)


def error_of(body_type: type[Sampled], **more: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check_model_fields(BODIES[body_type] | more, body_type)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "body_type"), [(OPENAI_CHAT | VLLM_CHAT, ChatRequest), (OPENAI_TEXT | VLLM_TEXT, CompletionRequest)]
)
def test_no_field_of_other_servers_is_unknown(fields: frozenset[str], body_type: type[Sampled]) -> None:
    table = HARMLESS | ONLY_AS.keys() | UNSUPPORTED.keys() | body_type.model_fields.keys()
    assert not fields - table


def test_no_field_is_in_two_tables() -> None:
    assert not HARMLESS & ONLY_AS.keys()
    assert not HARMLESS & UNSUPPORTED.keys()
    assert not ONLY_AS.keys() & UNSUPPORTED.keys()
    assert OFF.keys() <= UNSUPPORTED.keys()
    assert not UNSUPPORTED.keys() & (ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys())


@EACH
@pytest.mark.parametrize("name", ["some_unknown_field", "Temperature", "max_token", "", "a" * 500])
@pytest.mark.parametrize("value", [None, False, 0, {}])
def test_an_unknown_field_is_rejected_by_name(body_type: type[Sampled], name: str, value: Any) -> None:
    error = error_of(body_type, **{name: value})
    assert (error.code, error.param) == ("unknown_parameter", name[:60])
    assert repr(name[:60]) in error.message


@EACH
@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_is_not_honoured_is_rejected_unless_it_is_off(body_type: type[Sampled], name: str) -> None:
    if name in body_type.model_fields:
        return
    error = error_of(body_type, **{name: {"a": "value"}})
    assert (error.code, error.param) == ("unsupported_parameter", name)
    for off in (None, *OFF.get(name, ())):
        check_model_fields(BODIES[body_type] | {name: off}, body_type)


@EACH
@pytest.mark.parametrize("name", sorted(ONLY_AS))
def test_a_default_is_accepted_and_nothing_else(body_type: type[Sampled], name: str) -> None:
    if name in body_type.model_fields:
        return
    for accepted in (None, *ONLY_AS[name]):
        check_model_fields(BODIES[body_type] | {name: accepted}, body_type)
    error = error_of(body_type, **{name: "another"})
    assert (error.code, error.param) == ("unsupported_value", name)
    assert name in error.message


@EACH
@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_is_about_the_caller_is_accepted(body_type: type[Sampled], name: str) -> None:
    check_model_fields(BODIES[body_type] | {name: "anything"}, body_type)


@pytest.mark.parametrize(("name", "value"), [("best_of", True), ("length_penalty", True), ("use_beam_search", 0)])
def test_values_are_compared_with_their_types(name: str, value: Any) -> None:
    assert error_of(CompletionRequest, **{name: value}).param == name


@pytest.mark.parametrize("off", [{"best_of": 1}, {"best_of": None}, {"suffix": ""}, {"suffix": None}])
def test_completions_take_what_means_off(off: dict[str, Any]) -> None:
    check_model_fields(TEXT | off, CompletionRequest)


@EACH
def test_stream_options_need_a_stream(body_type: type[Sampled]) -> None:
    options = {"include_usage": True}
    assert "only allowed when 'stream' is enabled" in error_of(body_type, stream_options=options).message
    check_model_fields(BODIES[body_type] | {"stream_options": options, "stream": True}, body_type)
    check_model_fields(BODIES[body_type] | {"stream_options": None}, body_type)


@EACH
def test_an_unknown_stream_option_is_rejected_by_name(body_type: type[Sampled]) -> None:
    error = error_of(body_type, stream=True, stream_options={"include_usge": True})
    assert (error.code, error.param) == ("unknown_parameter", "stream_options.include_usge")
    error = error_of(body_type, stream=True, stream_options={"include_obfuscation": True})
    assert (error.code, error.param) == ("unsupported_value", "stream_options.include_obfuscation")
    options = {"include_usage": None, "continuous_usage_stats": False, "include_obfuscation": False}
    check_model_fields(BODIES[body_type] | {"stream": True, "stream_options": options}, body_type)
