"""What of a request reaches the chat template, over HTTP: messages, tools, and the template's variables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.chats import source
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, TEMPLATE, write_assets
from support.gateway_harness import MODEL, Harness

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
WALKS = """\
{%- for message in messages %}{{ message.role }}:{{ message.content }}
{%- for call in message.tool_calls or [] %}[{{ call.function.name }}
{%- for key, value in call.function.arguments.items() %} {{ key }}={{ value }}{% endfor %}]{% endfor %};{% endfor %}
{%- for tool in tools or [] %}{{ 'T:' + tool.function.name + '/' + tool.function.description }}{% endfor %}
{{- ' choice=' ~ (tool_choice | default('auto')) }}
{%- if tool_choice is defined %} defined{% endif %}"""


def model(folder: Path, template: str | None, **files: str) -> Path:
    write_assets(folder, template=template)
    for name, text in files.items():
        path = folder / "additional_chat_templates" / f"{name}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def walking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A model whose template walks over the arguments of calls, as the published ones do."""
    folder = model(tmp_path_factory.mktemp("walking") / "m", WALKS)
    with Harness(folder, FakeAttention(answers_with([70], eos=EOS))) as harness:
        yield harness


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A model with the format of LongCat's thinking models."""
    folder = model(tmp_path_factory.mktemp("thinking") / "m", source("thinking"))
    with Harness(folder, FakeAttention(answers_with([70], eos=EOS))) as harness:
        yield harness


def prompt(harness: Harness, messages: list[Any] = HI, **fields: Any) -> str:
    """Returns the prompt that a chat completion sends to the worker."""
    body = {"model": MODEL, "messages": messages, **fields}
    harness.client().post("/chat/completions", body=body, cast_to=dict[str, Any])
    ids = list(harness.fakes[0].requests[-1].prompt_ids)
    return harness.assets.tokenizer.decode(ids, skip_special_tokens=False)


def rejection(harness: Harness, **fields: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        prompt(harness, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city": "Paris"}', "[get_weather city=Paris]"),
        ({"city": "Paris"}, "[get_weather city=Paris]"),
        ('{"city": "Par', "[get_weather]"),
        ("", "[get_weather]"),
        ("null", "[get_weather]"),
        (None, "[get_weather]"),
        ("[]", "[get_weather]"),
        ([], "[get_weather]"),
        ('"x"', "[get_weather]"),
        ("x", "[get_weather]"),
        (7, "[get_weather]"),
        ("[" * 100_000, "[get_weather]"),
        ('{"a":' * 500 + "1" + "}" * 500, "[get_weather]"),
        ('{"a": "\\ud800"}', "[get_weather]"),
    ],
    ids=range(14),
)
def test_templates_get_the_arguments_of_earlier_calls_as_an_object(
    walking: Harness, arguments: Any, shown: str
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    history = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "user", "content": "and?"}]
    assert prompt(walking, history).startswith(f"user:hi;assistant:{shown};user:and?;")


def test_the_older_form_of_a_call_stays_in_the_history(walking: Harness) -> None:
    call = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    history = [
        *HI,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "get_weather", "content": "rain"},
    ]
    assert prompt(walking, history).startswith("user:hi;assistant:[get_weather city=Paris];tool:rain;")


def test_tool_choice_is_undefined_unless_the_request_has_it(walking: Harness) -> None:
    assert prompt(walking).endswith(" choice=auto")
    assert prompt(walking, tools=[TOOL], tool_choice="none").endswith("; choice=none defined")
    assert prompt(walking, tools=[TOOL], tool_choice="auto").endswith(" choice=auto defined")


def test_a_tool_may_lack_what_the_template_reads(walking: Harness) -> None:
    assert "T:get_weather/ choice" in prompt(walking, tools=[TOOL])
    bare = {"type": "function", "function": {"name": "f", "description": None, "parameters": None}}
    assert "T:f/ choice" in prompt(walking, tools=[bare])


def test_templates_see_tools_as_they_were_sent(router: Harness) -> None:
    sent = {"function": {"parameters": {"b": None, "a": [1]}, "strict": True, "name": "f"}, "type": "function"}
    assert json.dumps(sent["function"]) in prompt(router, tools=[sent])


def test_the_name_of_a_tool_comes_from_its_call(thinking: Harness) -> None:
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id, name in (("a", "get_weather"), ("b", "get_time"))
    ]
    history = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "a", "name": "own_name", "content": "snow"},
    ]
    text = prompt(thinking, history)
    assert "<longcat_tool_response>get_time\nnoon<" in text
    assert "<longcat_tool_response>get_weather\nrain<" in text
    assert "<longcat_tool_response>own_name\nsnow<" in text


ON, OFF = "<longcat_think>\n", "<longcat_assistant>"


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, ON),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"chat_template_kwargs": {"enable_thinking": True, "save_history_reasoning_content": True}}, ON),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "enabled"}}, ON),
        ({"enable_thinking": False}, OFF),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "low"}, ON),
        ({"reasoning_effort": "high", "thinking": {"type": "enabled"}}, ON),
        ({"chat_template_kwargs": None, "thinking": None, "reasoning_effort": None, "enable_thinking": None}, ON),
    ],
    ids=range(10),
)
def test_thinking_in_the_words_of_every_api(thinking: Harness, fields: dict[str, Any], end: str) -> None:
    assert prompt(thinking, **fields).endswith(end)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"enable_thinking": True}, "thinking": {"type": "disabled"}}, "thinking"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"invented": 1}}, "chat_template_kwargs.invented"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs.bos_token"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"thinking": {"type": "adaptive"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget": 5}}, "thinking.budget"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ],
    ids=range(10),
)
def test_what_a_template_does_not_read_is_rejected_by_name(
    thinking: Harness, fields: dict[str, Any], param: str
) -> None:
    assert rejection(thinking, **fields).param == param


@pytest.mark.parametrize(
    "fields", [{"thinking": {"type": "enabled"}}, {"reasoning_effort": "low"}, {"enable_thinking": True}]
)
def test_thinking_is_rejected_where_the_template_does_not_know_it(router: Harness, fields: dict[str, Any]) -> None:
    error = rejection(router, **fields)
    assert (error.param, error.code) == (next(iter(fields)), "unsupported_parameter")
    assert "chat template has no variable enable_thinking" in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": {"type": "disabled"}},
        {"reasoning_effort": "none"},
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_a_model_that_cannot_think_may_be_asked_not_to(router: Harness, fields: dict[str, Any]) -> None:
    assert prompt(router, **fields) == prompt(router)


def test_the_template_for_tools_is_taken_when_tools_are_sent(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", TEMPLATE, tool_use="{{ tools | length }} tools")
    with Harness(folder, FakeAttention(answers_with([70], eos=EOS))) as harness:
        assert prompt(harness, tools=[TOOL]) == "1 tools"
        assert prompt(harness, tools=[TOOL], tool_choice="none") == "[Round 0] USER:hi ASSISTANT:"
        assert prompt(harness, tools=[]) == "[Round 0] USER:hi ASSISTANT:"


@pytest.mark.parametrize("filter", ["tojson(ensure_ascii=True)", "upper", "string | length", "trim"])
def test_one_request_has_one_prompt_with_the_users_real_text(tmp_path: Path, filter: str) -> None:
    user = "explain <longcat_think> please"
    folder = model(tmp_path / "m", f"{{{{ messages[0].content | {filter} }}}}<longcat_think>")
    with Harness(folder, FakeAttention(answers_with([70], eos=EOS))) as harness:
        seen = {prompt(harness, [{"role": "user", "content": user}]) for _ in range(4)}
        shown = {"upper": user.upper(), "trim": user, "string | length": str(len(user))}.get(filter, json.dumps(user))
        assert seen == {shown + "<longcat_think>"}
        ids = list(harness.fakes[0].requests[-1].prompt_ids)
        assert ids.count(harness.ids("<longcat_think>")[0]) == 1


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_reaches_the_template_under_every_name(thinking: Harness, field: str) -> None:
    history = [*HI, {"role": "assistant", "content": "yes", field: "hm"}, {"role": "user", "content": "and?"}]
    text = prompt(thinking, history, chat_template_kwargs={"save_history_reasoning_content": True})
    assert "<longcat_think>\nhm\n</longcat_think>yes</longcat_s>" in text
    assert "hm" not in prompt(thinking, history)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "</longcat_s>"}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "</longcat_s>"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"</longcat_s>": 1}}}]},
        {
            "messages": [
                *HI,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "f", "arguments": '{"</longcat_s>": "</longcat_s>"}'}}
                    ],
                },
            ]
        },
    ],
    ids=["message", "description", "parameter", "arguments"],
)
def test_no_part_of_a_request_ends_the_conversation(router: Harness, fields: dict[str, Any]) -> None:
    harmless = json.loads(json.dumps(fields).replace("</longcat_s>", "(longcat_s)"))
    counts = []
    for one in (fields, harmless):
        prompt(router, **{"messages": HI, **one})
        counts.append(list(router.fakes[0].requests[-1].prompt_ids).count(EOS))
    assert counts[0] == counts[1]


def test_a_thought_that_the_user_opened_is_none(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "{{ messages[-1].content }}")
    with Harness(folder, FakeAttention(answers_with([70], eos=EOS))) as harness:
        answer = harness.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "<longcat_think>"}]
        )
        assert answer.choices[0].message.content == harness.assets.tokenizer.decode([70])


def test_tokenize_gives_the_prompt_of_the_chat(thinking: Harness) -> None:
    fields: dict[str, Any] = {"messages": HI, "tools": [TOOL], "tool_choice": "auto", "thinking": {"type": "disabled"}}
    prompt(thinking, **fields)
    url = thinking.url + "/tokenize"
    asked = thinking.client().post(url, body={"model": MODEL, **fields}, cast_to=dict[str, Any])
    assert asked["tokens"] == list(thinking.fakes[0].requests[-1].prompt_ids)


def test_a_model_without_a_template_says_where_to_go(tmp_path: Path) -> None:
    with Harness(model(tmp_path / "m", None), FakeAttention(answers_with([70], eos=EOS))) as harness:
        error = rejection(harness)
        assert (error.status_code, error.code) == (400, "no_chat_template")
        assert "no chat template: it continues text. Use /v1/completions" in error.message


def test_a_template_that_writes_nothing_rejects_the_messages(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "{% if false %}x{% endif %}")
    with Harness(folder, FakeAttention(answers_with([70], eos=EOS))) as harness:
        with pytest.raises(openai.BadRequestError) as caught:
            prompt(harness)
        assert caught.value.body == {
            "message": "The chat template made an empty prompt of these messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "invalid_value",
        }
