"""Tool calls that a limit, a stop string or the model itself leaves unfinished: no markup in content, none to run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.fake_attention import answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

HI: list[Any] = [{"role": "user", "content": "hi"}]
FUNCTION: dict[str, Any] = {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}}
TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]
JSON_CALL = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</longcat_tool_call>'
XML_CALL = (
    "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n"
    "<longcat_arg_value>Paris</longcat_arg_value>\n</longcat_tool_call>"
)
BROKEN = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": }}\n</longcat_tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}


def set_answer(router: Harness, text: str) -> list[int]:
    ids = router.ids(text)
    router.fakes[0].script = answers_with(ids, eos=EOS)
    return ids


def chat(router: Harness, *, stream: bool = False, **options: Any) -> Any:
    """Returns the choice of a chat."""
    client: Any = router.client().chat.completions
    if not stream:
        return client.create(model=MODEL, messages=HI, tools=TOOLS, **options).choices[0]
    with client.stream(model=MODEL, messages=HI, tools=TOOLS, **options) as events:
        for _ in events:
            pass
        return events.current_completion_snapshot.choices[0]


@pytest.mark.parametrize("call", [JSON_CALL, XML_CALL], ids=["json", "xml"])
@pytest.mark.parametrize("choice", ["auto", "none", "required", NAMED, ALLOWED], ids=str)
def test_a_call_that_is_cut_anywhere_leaves_no_markup(router: Harness, call: str, choice: Any) -> None:
    ids = set_answer(router, call)
    for limit in range(1, len(ids), 1 if choice in ("auto", "required") else 7):
        found = chat(router, max_tokens=limit, tool_choice=choice)
        assert found.finish_reason == "length"
        assert not found.message.content, limit
        calls = found.message.tool_calls or []
        named = "get_weather" in router.assets.tokenizer.decode(ids[: limit - 1]) and choice != "none"
        assert [one.function.name for one in calls] == ["get_weather"] * bool(calls)
        assert bool(calls) or not named, "the name is known, and the arguments so far"


@pytest.mark.parametrize("limit", [1, 9, 20])
@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_a_stream_that_is_cut_has_no_markup(router: Harness, limit: int, choice: str) -> None:
    set_answer(router, JSON_CALL)
    found = chat(router, stream=True, max_tokens=limit, tool_choice=choice)
    assert found.finish_reason == "length"
    assert not found.message.content


def test_text_before_a_call_that_is_cut_stays(router: Harness) -> None:
    ids = set_answer(router, f"Let me look.{JSON_CALL}")
    before = len(router.ids("Let me look."))
    assert before < len(ids)
    assert chat(router, max_tokens=before + 2).message.content == "Let me look."
    set_answer(router, "a < b </ c <")
    assert chat(router, max_tokens=len(router.ids("a < b </ c <"))).message.content == "a < b </ c <"


def test_a_stop_string_within_a_call(router: Harness) -> None:
    set_answer(router, JSON_CALL)
    found = chat(router, stop=["\n"], tool_choice="required")
    assert (found.message.content, found.message.tool_calls, found.finish_reason) == ("", None, "stop")
    found = chat(router, stop=['"}'])
    assert not found.message.content
    assert found.message.tool_calls[0].function.arguments == '{"city": "Paris'
    assert found.finish_reason == "stop", "it is none to run"
    set_answer(router, XML_CALL)
    found = chat(router, stop=["</longcat_tool_call>"])
    assert json.loads(found.message.tool_calls[0].function.arguments) == {"city": "Paris"}
    assert found.finish_reason == "tool_calls"


def test_calls_that_no_tool_choice_allows_are_not_shown(router: Harness) -> None:
    set_answer(router, f"It is sunny.\n{JSON_CALL}\n{XML_CALL}")
    found = chat(router, tool_choice="none")
    assert (found.message.content, found.message.tool_calls) == ("It is sunny.\n", None)
    assert found.finish_reason == "stop"
    banned = [list(one.ids) for one in router.fakes[0].requests[-1].sampling.banned]
    assert [router.assets.vocabulary.added["<longcat_tool_call>"]] in banned, "the model cannot even begin one"
    chat(router, tool_choice="auto")
    assert not router.fakes[0].requests[-1].sampling.banned


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_arguments_the_model_broke(router: Harness, stream: bool) -> None:
    set_answer(router, BROKEN)
    found = chat(router, stream=stream)
    assert not found.message.content
    (call,) = found.message.tool_calls
    assert call.function.arguments == '{"city": "Paris", "n": }', "as the model wrote it"
    assert found.finish_reason == "stop", "it is none to run"
    set_answer(router, f"{BROKEN}\n{JSON_CALL}")
    found = chat(router, stream=stream)
    assert [one.function.name for one in found.message.tool_calls] == ["get_weather"] * 2
    assert found.finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_responses_and_messages_of_broken_and_cut_calls(router: Harness, stream: bool) -> None:
    set_answer(router, BROKEN)
    (item,) = respond(router, stream=stream).output
    assert (item.type, item.status, item.arguments) == ("function_call", "incomplete", '{"city": "Paris", "n": }')
    for call in (JSON_CALL, XML_CALL):
        set_answer(router, call)
        answer = respond(router, stream=stream, max_output_tokens=3, tool_choice="required")
        assert answer.status == "incomplete"
        assert "longcat" not in answer.output_text
        message = router.anthropic().messages.create(
            model=MODEL, messages=HI, max_tokens=3, tool_choice={"type": "any"},
            tools=[{"name": "get_weather", "input_schema": {"type": "object"}}],
        )  # fmt: skip
        assert message.stop_reason == "max_tokens"
        assert "longcat" not in message.to_json()


def respond(router: Harness, *, stream: bool, **options: Any) -> Any:
    """Returns a response, of a stream the one that its last event has."""
    tools: Any = [{"type": "function", "strict": None, **FUNCTION}]
    client: Any = router.client().responses
    answer = client.create(model=MODEL, input="hi", tools=tools, stream=stream, **options)
    return list(answer)[-1].response if stream else answer
