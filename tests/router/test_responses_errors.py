"""Invalid Responses requests: a 400 that names the caller's field, and nothing reaches a worker."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from support.gateway_assets import CONTEXT
from support.gateway_harness import MODEL, Harness

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
TOOL = {"type": "function", "name": "f", "parameters": {}}

# Fields of the body, and the param of the error.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no_input": ({"input": None}, "input"),
    "empty_input": ({"input": []}, "input"),
    "input_number": ({"input": 3}, "input"),
    "item_number": ({"input": [3]}, "input[0]"),
    "item_without_content": ({"input": [{"role": "user"}]}, "input[0].content"),
    "role": ({"input": [USER, {"role": "cat", "content": "hi"}]}, "input[1].role"),
    "content_number": ({"input": [{"role": "user", "content": 4}]}, "input[0].content"),
    "image": ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    "part_without_text": ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]"),
    "item_type": ({"input": [USER, {"type": "web_search_call", "id": "w"}]}, "input[1]"),
    "item_reference": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    "call_without_name": ({"input": [USER, CALL | {"name": None}]}, "input[1].name"),
    "call_arguments": ({"input": [CALL | {"arguments": {}}]}, "input[0].arguments"),
    "output_of_no_call": (
        {"input": [USER, {"type": "function_call_output", "call_id": "x", "output": "y"}]},
        "input[1].call_id",
    ),
    "encrypted": (
        {"input": [USER, {"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        "input[1].encrypted_content",
    ),
    "max_output_tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
    "too_many_tokens": ({"max_output_tokens": CONTEXT}, "max_output_tokens"),
    "too_long": ({"input": "猫" * CONTEXT}, "input"),
    "temperature": ({"temperature": 2.5}, "temperature"),
    "top_logprobs": ({"top_logprobs": 21}, "top_logprobs"),
    "include": ({"include": ["file_search_call.results"]}, "include"),
    "include_text": ({"include": "all"}, "include"),
    "truncation": ({"truncation": "auto"}, "truncation"),
    "truncation_number": ({"truncation": 1}, "truncation"),
    "background": ({"background": True}, "background"),
    "conversation": ({"conversation": "conv_1"}, "conversation"),
    "prompt": ({"prompt": {"id": "p"}}, "prompt"),
    "service_tier": ({"service_tier": "flex"}, "service_tier"),
    "obfuscation": (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
    "usage": ({"stream": True, "stream_options": {"include_usage": False}}, "stream_options.include_usage"),
    "stop": ({"stop": ["a"] * 65}, "stop"),
    "stop_type": ({"stop": 5}, "stop"),
    "stop_empty": ({"stop": [""]}, "stop"),
    "stream_options": ({"stream_options": {}}, "stream_options"),
    "metadata": ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    "metadata_value": ({"metadata": {"a": 1}}, "metadata.a"),
    "metadata_long": ({"metadata": {"a": "x" * 513}}, "metadata"),
    "tool_type": ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    "tool_name": ({"tools": [TOOL, TOOL | {"name": "a b"}]}, "tools[1].name"),
    "tool_without_name": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "tool_parameters": ({"tools": [TOOL | {"parameters": 3}]}, "tools[0].parameters"),
    "tool_field": ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
    "tool_choice": ({"tool_choice": "sometimes"}, "tool_choice"),
    "tool_choice_type": ({"tool_choice": {"type": "mcp", "server_label": "a"}}, "tool_choice"),
    "tool_choice_tools": ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools"),
    "tool_choice_alone": ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    "effort": ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
    "effort_without_effect": ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    "verbosity": ({"text": {"verbosity": "high"}}, "text.verbosity"),
    "format_type": ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    "schema_without_name": ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    "chat_field": ({"messages": [USER]}, "messages"),
    "chat_limit": ({"max_tokens": 5}, "max_tokens"),
    "seed": ({"seed": 2**70}, "seed"),
    "instructions": ({"instructions": ["a"]}, "instructions"),
    "previous": ({"previous_response_id": 5}, "previous_response_id"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_field_is_named(router: Harness, name: str) -> None:
    fields, param = CASES[name]
    with pytest.raises(openai.BadRequestError) as caught:
        router.client().post("/responses", body={"model": MODEL, "input": "hi"} | fields, cast_to=dict[str, Any])
    assert caught.value.param == param, caught.value.message
    assert caught.value.type == "invalid_request_error"
    assert not router.fakes[0].requests


def test_a_missing_input_is_named(router: Harness) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        router.client().post("/responses", body={"model": MODEL}, cast_to=dict[str, Any])
    assert (caught.value.param, caught.value.code) == ("input", "missing_required_parameter")


def test_messages_name_what_the_caller_wrote(router: Harness) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        router.client().responses.create(model=MODEL, input="hi", reasoning={"effort": "high"})
    assert caught.value.message.count("reasoning.effort: this model's chat template") == 1
    with pytest.raises(openai.BadRequestError, match="'computer_use_preview' is not supported; these are: function"):
        router.client().post(
            "/responses",
            body={"model": MODEL, "input": "hi", "tools": [{"type": "computer_use_preview"}]},
            cast_to=dict[str, Any],
        )


def test_another_model_is_not_found(router: Harness) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        router.client().responses.create(model="gpt-5", input="hi")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"input": "a", "input": "b"}', 400),
        (b'{"input": "\xff"}', 400),
        (b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
        (b'{"input": "' + b"x" * (5 << 20) + b'"}', 413),
    ],
    ids=["empty", "list", "cut", "twice", "bytes", "deep", "huge"],
)
def test_hostile_bodies(router: Harness, data: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx2.post(router.url + "/v1/responses", content=data, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("response_id", ["resp_" + "0" * 48, "x", "resp_*", "..%2f..%2fcluster", "a" * 5000, "%00"])
def test_ids_that_do_not_exist(router: Harness, response_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        answer = httpx2.request(method, f"{router.url}/v1/responses/{response_id}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert len(answer.text) < 300


def test_methods_of_the_routes(router: Harness) -> None:
    url = f"{router.url}/v1/responses"
    assert httpx2.get(url).status_code == 405
    assert httpx2.options(url).headers["allow"] == "OPTIONS, POST"
    assert httpx2.options(url + "/resp_1").headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
    assert httpx2.head(url + "/resp_1").status_code == 404
