"""Formats, forced tools, budgets of reasoning and continued messages through the Responses and Messages APIs.

The model writes at random, so whatever keeps to a schema was made to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel
from support.chats import source
from support.engine_attention import EngineAttention
from support.gateway_assets import write_assets
from support.gateway_harness import MODEL, Harness

pytestmark = pytest.mark.processes

HI: list[Any] = [{"role": "user", "content": "hi"}]


class Trip(BaseModel):
    city: Literal["Paris", "Oslo"]
    days: Literal[1, 2, 3]


SCHEMA = Trip.model_json_schema() | {"additionalProperties": False}
CLOCK = {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]}
FUNCTIONS: list[Any] = [
    {"type": "function", "name": "trip", "parameters": SCHEMA, "strict": True},
    {"type": "function", "name": "clock", "parameters": CLOCK, "strict": True},
]
TOOLS: list[Any] = [{"name": "trip", "input_schema": SCHEMA}, {"name": "clock", "input_schema": CLOCK}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    path = write_assets(tmp_path_factory.mktemp("plain") / "model", context=4096)
    with Harness(path, EngineAttention(path)) as harness:
        yield harness


@pytest.fixture(scope="module")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    path = write_assets(tmp_path_factory.mktemp("thinking") / "model", context=4096, template=source("thinking"))
    with Harness(path, EngineAttention(path)) as harness:
        yield harness


def respond(harness: Harness, **fields: Any) -> Any:
    options: dict[str, Any] = {"model": MODEL, "input": "hi", "max_output_tokens": 900} | fields
    return harness.client().responses.create(**options, extra_body={"seed": 1})


def message(harness: Harness, **fields: Any) -> Any:
    options: dict[str, Any] = {"model": MODEL, "messages": HI, "max_tokens": 900} | fields
    return harness.anthropic().messages.create(**options, extra_body={"temperature": 0})


def calls(answer: Any) -> list[tuple[str, Any]]:
    return [(item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"]


def uses(answer: Any) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in answer.content if block.type == "tool_use"]


def test_a_response_is_parsed_by_the_client(model: Harness) -> None:
    client = model.client()
    parsed = client.responses.parse(model=MODEL, input="hi", text_format=Trip)
    assert isinstance(parsed.output_parsed, Trip)
    with client.responses.stream(model=MODEL, input="hi", text_format=Trip) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Trip)
    answer = respond(model, text={"format": {"type": "json_object"}}, temperature=0.5)
    assert answer.status == "incomplete" or isinstance(json.loads(answer.output_text), dict)


def test_a_message_has_the_format(model: Harness) -> None:
    answer = message(model, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    Trip.model_validate_json(answer.content[0].text)
    assert answer.stop_reason == "end_turn"


def test_a_schema_that_cannot_be_followed_is_named(model: Harness) -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "nonsense"}}, "required": ["a"]}
    wanted: Any = {"format": {"type": "json_schema", "name": "x", "schema": wrong}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            list(respond(model, text=wanted, stream=stream))
        assert caught.value.param == "text.format.schema"
        assert "type 'nonsense' is none of JSON Schema's" in caught.value.message
    with pytest.raises(anthropic.BadRequestError, match="nonsense"):
        message(model, output_config={"format": {"type": "json_schema", "schema": wrong}})


def test_responses_with_tools_that_must_be_called(model: Harness) -> None:
    answer = respond(model, tools=FUNCTIONS, tool_choice="required", parallel_tool_calls=False)
    ((name, arguments),) = calls(answer)
    if name == "trip":
        Trip.model_validate(arguments)
    else:
        assert arguments["zone"] in ("UTC", "CET")
    answer = respond(model, tools=FUNCTIONS, tool_choice={"type": "function", "name": "clock"})
    assert [name for name, _ in calls(answer)] == ["clock"]
    assert answer.tool_choice.name == "clock"
    some = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "trip"}]}
    answer = respond(model, tools=FUNCTIONS, tool_choice=some, parallel_tool_calls=False)
    assert {name for name, _ in calls(answer)} == {"trip"}
    assert answer.tool_choice.mode == "required"
    for choice in ({"type": "function", "name": "other"}, some | {"tools": [{"type": "function", "name": "other"}]}):
        with pytest.raises(openai.BadRequestError) as caught:
            respond(model, tools=FUNCTIONS, tool_choice=choice)
        assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("stream", [False, True])
def test_messages_with_tools_that_must_be_called(model: Harness, stream: bool) -> None:
    def ask(**fields: Any) -> Any:
        if not stream:
            return message(model, **fields)
        options: Any = {"model": MODEL, "messages": HI, "max_tokens": 900} | fields
        with model.anthropic().messages.stream(**options) as events:
            return events.get_final_message()

    answer = ask(tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert len(uses(answer)) == 1
    assert answer.stop_reason == "tool_use"
    answer = ask(tools=TOOLS, tool_choice={"type": "tool", "name": "trip"})
    ((name, arguments),) = uses(answer)
    assert name == "trip"
    Trip.model_validate(arguments)
    assert answer.stop_reason == "tool_use"
    answer = ask(tools=TOOLS, tool_choice={"type": "none"}, max_tokens=9)
    assert not uses(answer)


def test_reasoning_within_a_budget(thinking_model: Harness) -> None:
    answer = message(thinking_model, thinking={"type": "enabled", "budget_tokens": 20}, max_tokens=60)
    assert answer.content[0].type == "thinking"
    assert answer.usage.output_tokens_details.thinking_tokens <= 20
    answer = message(thinking_model, thinking={"type": "disabled"}, max_tokens=20)
    assert answer.content[0].type == "text"
    answer = respond(thinking_model, reasoning={"effort": "none"}, max_output_tokens=20)
    assert answer.output[0].type == "message"
    answer = respond(thinking_model, reasoning={"effort": "low"}, max_output_tokens=20)
    assert answer.output[0].type == "reasoning"
    assert answer.reasoning.effort == "low"


def test_an_answer_goes_on_where_the_last_message_ends(model: Harness) -> None:
    begun = [*HI, {"role": "assistant", "content": "the cat sat on"}]
    answer = message(model, messages=begun)
    counted = model.anthropic().messages.count_tokens(model=MODEL, messages=begun)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    whole = model.anthropic().messages.count_tokens(model=MODEL, messages=[*begun, *HI])
    assert counted.input_tokens < whole.input_tokens
    with pytest.raises(
        anthropic.BadRequestError, match=r"messages\[1\] needs a last message of the assistant with text"
    ):
        message(model, messages=[*HI, {"role": "assistant", "content": " "}])
    wanted = {"format": {"type": "json_schema", "schema": {"enum": ["the mat"]}}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[1\] cannot be combined with output_config.format"):
        message(model, messages=begun, output_config=wanted)
