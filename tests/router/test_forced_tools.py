"""Tool calls that a request forces or binds to their schemas, and reasoning within a budget, from a random model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from support.chats import source
from support.engine_attention import EngineAttention
from support.gateway_assets import TEMPLATE, write_assets
from support.gateway_harness import MODEL, Harness
from tokenizers import AddedToken, Tokenizer

pytestmark = pytest.mark.processes

HI: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "São Paulo"]},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "places": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK: dict[str, Any] = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
REFERENCES: dict[str, Any] = {
    "type": "object",
    "$defs": {"n": {"type": "integer", "minimum": 3, "maximum": 4}},
    "properties": {"n": {"$ref": "#/$defs/n"}, "hex": {"type": "string", "pattern": "^[0-9a-f]{4}$"}},
    "required": ["n", "hex"],
    "additionalProperties": False,
}
XML_TAGS = ["<longcat_arg_key>", "</longcat_arg_key>", "<longcat_arg_value>", "</longcat_arg_value>"]


def tool(name: str, parameters: dict[str, Any], *, strict: bool | None = None) -> Any:
    function = {"name": name, "parameters": parameters, "description": name}
    return {"type": "function", "function": function if strict is None else function | {"strict": strict}}


TOOLS = [tool("weather", WEATHER), tool("clock", CLOCK)]


@pytest.fixture(scope="module", params=["json", "xml"])
def random_model(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Harness]:
    """A model without thinking that is asked for calls in JSON; one that thinks, and is asked for them in XML."""
    folder = tmp_path_factory.mktemp("model")
    template = TEMPLATE if request.param == "json" else source("thinking")
    write_assets(folder, context=4096, template=template)
    if request.param == "xml":
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in XML_TAGS])
        tokenizer.save(str(folder / "tokenizer.json"))
    with Harness(folder, EngineAttention(folder)) as harness:
        yield harness


def thinks(harness: Harness) -> bool:
    return "<longcat_arg_key>" in harness.assets.vocabulary.added


def answer(harness: Harness, **fields: Any) -> Any:
    names = ("thinking", "include", "chat_template", "structured")
    extra: dict[str, Any] = {name: fields.pop(name) for name in list(fields) if name.startswith(names)}
    if thinks(harness):
        extra = {"thinking_token_budget": 5} | extra
    body = {"temperature": 1.0, "seed": 1, "max_tokens": 250, "tools": TOOLS, **fields}
    return harness.client().chat.completions.create(model=MODEL, messages=HI, extra_body=extra, **body)


def calls(given: ChatCompletion) -> list[tuple[str, Any]]:
    found = given.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in found if call.type == "function"]


def check(name: str, arguments: Any) -> None:
    if name == "clock":
        assert arguments.keys() == {"zone"}
        assert arguments["zone"] in ("UTC", "CET")
        return
    assert name == "weather"
    assert {"city", "days"} <= arguments.keys() <= WEATHER["properties"].keys()
    assert arguments["city"] in ("Paris", "São Paulo")
    assert 1 <= arguments["days"] <= 9
    assert arguments.get("unit", "kelvin") in ("celsius", "kelvin")
    assert set(arguments.get("places", [])) <= {"a", "b"}


@pytest.mark.parametrize("seed", range(5))
def test_a_named_function_is_called(random_model: Harness, seed: int) -> None:
    choice: Any = {"type": "function", "function": {"name": "clock"}}
    given = answer(random_model, tool_choice=choice, seed=seed)
    ((name, arguments),) = calls(given)
    assert name == "clock"
    check(name, arguments)
    assert given.choices[0].finish_reason == "stop"  # as OpenAI says it


def test_a_call_is_required(random_model: Harness) -> None:
    given = [answer(random_model, tool_choice="required", parallel_tool_calls=False, seed=seed) for seed in range(8)]
    for each in given:
        ((name, arguments),) = calls(each)
        check(name, arguments)
        assert each.choices[0].finish_reason == "tool_calls"
    assert {name for each in given for name, _ in calls(each)} == {"weather", "clock"}


def test_text_of_any_length_ends_with_its_tag(random_model: Harness) -> None:
    end = "</longcat_arg_value>" if thinks(random_model) else '"'
    tag = random_model.assets.vocabulary.added.get(end) or random_model.ids(end)[0]
    note = tool("note", {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": False})
    given = answer(random_model, tools=[note], tool_choice="required", logit_bias={str(tag): 4}, seed=3)
    assert isinstance(calls(given)[0][1].get("text", ""), str)


def test_several_calls_follow_one_another(random_model: Harness) -> None:
    tag = random_model.assets.vocabulary.added["<longcat_tool_call>"]
    given = answer(random_model, tool_choice="required", tools=[TOOLS[1]], logit_bias={str(tag): 100}, max_tokens=100)
    *whole, _ = given.choices[0].message.tool_calls or []  # the last one may be cut
    assert whole
    assert all(json.loads(call.function.arguments)["zone"] in ("UTC", "CET") for call in whole)
    assert given.choices[0].message.content is None


def test_allowed_tools(random_model: Harness) -> None:
    only: Any = {"tools": [{"type": "function", "function": {"name": "clock"}}], "mode": "required"}
    given = answer(
        random_model, tool_choice={"type": "allowed_tools", "allowed_tools": only}, parallel_tool_calls=False
    )
    assert [name for name, _ in calls(given)] == ["clock"]


def test_schemas_with_references_and_patterns(random_model: Harness) -> None:
    choice: Any = {"type": "function", "function": {"name": "f"}}
    given = answer(random_model, tools=[tool("f", REFERENCES)], tool_choice=choice)
    ((_, arguments),) = calls(given)
    assert arguments["n"] in (3, 4)
    assert len(arguments["hex"]) == 4
    assert int(arguments["hex"], 16) >= 0


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_that_may_call_follows_strict_schemas_only(random_model: Harness, strict: bool) -> None:
    """The bias makes it call; the schema makes it end."""
    tag = random_model.assets.vocabulary.added["<longcat_tool_call>"]
    fields: dict[str, Any] = {"tools": [tool("clock", CLOCK, strict=strict)], "max_tokens": 400}
    given = answer(random_model, logit_bias={str(tag): 20, "2": -100}, **fields)
    whole = (given.choices[0].message.tool_calls or [])[:-1]  # the last one is cut
    assert bool(whole) is strict
    assert all(json.loads(call.function.arguments)["zone"] in ("UTC", "CET") for call in whole)


def test_one_call_at_most(random_model: Harness) -> None:
    tag = random_model.assets.vocabulary.added["<longcat_tool_call>"]
    one = [tool("clock", CLOCK, strict=True)]
    given = answer(random_model, tools=one, logit_bias={str(tag): 20}, parallel_tool_calls=False)
    assert [name for name, _ in calls(given)] == ["clock"]
    assert given.choices[0].finish_reason == "tool_calls"


def test_a_format_beside_tools(random_model: Harness) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer", "maximum": 99}}}
    for seed in range(4):
        message = answer(random_model, response_format=form, seed=seed, parallel_tool_calls=False).choices[0].message
        assert message.tool_calls or isinstance(json.loads(message.content or ""), int)
    message = answer(random_model, response_format=form, tool_choice="none").choices[0].message
    assert not message.tool_calls
    assert isinstance(json.loads(message.content or ""), int)


def test_constraints_that_exclude_a_forced_call_are_rejected(random_model: Harness) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be combined with a tool_choice") as error:
        answer(random_model, tool_choice="required", structured_outputs={"regex": "a"})
    assert error.value.param == "structured_outputs.regex"
    assert calls(answer(random_model, tool_choice="required", structured_outputs={}, parallel_tool_calls=False))
    for kind in ("array", "bogus", ["object", "null"]):
        with pytest.raises(openai.BadRequestError, match="must be of type object"):
            answer(random_model, tools=[tool("f", {"type": kind})], tool_choice="required")


def test_a_stream_has_the_same_calls(random_model: Harness) -> None:
    choice: Any = {"type": "function", "function": {"name": "clock"}}
    whole = calls(answer(random_model, tool_choice=choice, seed=7))
    streamed: Any = answer(random_model, tool_choice=choice, seed=7, stream=True)
    parts = [call for chunk in streamed for call in chunk.choices[0].delta.tool_calls or []]
    assert parts[0].function.name == whole[0][0]
    assert json.loads("".join(part.function.arguments or "" for part in parts)) == whole[0][1]


@pytest.mark.parametrize("random_model", ["xml"], indirect=True)
def test_reasoning_keeps_to_its_budget(random_model: Harness) -> None:
    for name in ("thinking_token_budget", "thinking_budget"):
        given = random_model.client().chat.completions.create(
            model=MODEL, messages=HI, seed=2, max_tokens=30, extra_body={name: 7, "guided_choice": ["Paris"]}
        )
        assert given.choices[0].message.content == "Paris"
        assert given.usage is not None
        assert given.usage.completion_tokens_details is not None
        assert given.usage.completion_tokens_details.reasoning_tokens == 7
        message: Any = given.choices[0].message
        assert message.reasoning == message.reasoning_content
    hidden: Any = answer(random_model, tool_choice="none", include_reasoning=False).choices[0].message
    assert not hasattr(hidden, "reasoning")


def test_a_schema_of_a_tool_that_cannot_be_followed_is_named(random_model: Harness) -> None:
    bad = tool("bad", {"type": "object", "properties": {"a": {"type": "nonsense"}}, "required": ["a"]})
    for fields, param in (
        ({"tools": [TOOLS[0], bad], "tool_choice": {"type": "function", "function": {"name": "bad"}}}, 1),
        ({"tools": [bad], "tool_choice": "required"}, 0),
    ):
        with pytest.raises(openai.BadRequestError, match="type 'nonsense' is none of JSON Schema's") as error:
            answer(random_model, **fields)
        assert error.value.param == f"tools[{param}].function.parameters"
    with pytest.raises(openai.BadRequestError, match="nonsense") as error:
        answer(random_model, tools=[TOOLS[0], bad], tool_choice="required")
    assert error.value.param == "tools"


@pytest.mark.parametrize("random_model", ["json"], indirect=True)
def test_no_call_is_begun_where_none_may_be(random_model: Harness) -> None:
    begin = random_model.assets.vocabulary.added["<longcat_tool_call>"]
    given = answer(random_model, tool_choice="none", logit_bias={str(begin): 100}, max_tokens=30)
    assert given.choices[0].message.tool_calls is None
    assert given.choices[0].message.content
