"""anthropic, the Python package: Messages."""

from __future__ import annotations

from typing import Any

import anthropic
from compat import features as f
from compat.features import Servers, raised
from pydantic import BaseModel

TOOL: Any = {"name": f.WEATHER, "description": f.WEATHER_DESCRIPTION, "input_schema": f.WEATHER_SCHEMA}
GREEDY = {"temperature": 0}  # newer versions have no parameter of that name
QUESTION: Any = [{"role": "user", "content": f.QUESTION}]


class Parity(BaseModel):
    even: bool


def client(servers: Servers) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=servers.url, api_key="unused", max_retries=0)


def chat(servers: Servers) -> None:
    answer: Any = client(servers).messages.create(
        model=servers.model, max_tokens=50, messages=QUESTION, extra_body=GREEDY
    )
    assert f.ANSWER in answer.content[0].text
    assert answer.usage.output_tokens > 0


def streaming(servers: Servers) -> None:
    with client(servers).messages.stream(
        model=servers.model, max_tokens=50, messages=QUESTION, extra_body=GREEDY
    ) as stream:
        assert f.ANSWER in "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason == "end_turn"


def tools(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.WEATHER_QUESTION}]
    call: Any = {"model": servers.model, "max_tokens": 80, "tools": [TOOL], "extra_body": GREEDY}
    message: Any = client(servers).messages.create(messages=messages, **call)
    used = message.content[-1]
    assert used.input == {"city": f.WEATHER_CITY}
    result = {"type": "tool_result", "tool_use_id": used.id, "content": f.WEATHER_RESULT}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer: Any = client(servers).messages.create(messages=messages, **call)
    assert f.WEATHER_ANSWER in answer.content[0].text


def forced_tool(servers: Servers) -> None:
    choice: Any = {"type": "tool", "name": f.WEATHER}
    answer: Any = client(servers).messages.create(
        model=servers.model, max_tokens=200, messages=QUESTION, tools=[TOOL], tool_choice=choice, extra_body=GREEDY
    )
    assert set(answer.content[-1].input) == {"city"}


def structured_output(servers: Servers) -> None:
    answer = client(servers).messages.parse(
        model=servers.model, max_tokens=200, messages=QUESTION, output_format=Parity
    )
    assert isinstance(answer.parsed_output, Parity)


def reasoning(servers: Servers) -> None:
    thinking = anthropic.Anthropic(base_url=servers.thinking_url, api_key="unused")
    answer: Any = thinking.messages.create(
        model=servers.thinking_model, max_tokens=2000, messages=QUESTION,
        thinking={"type": "enabled", "budget_tokens": 1024},
    )  # fmt: skip
    thought, said = answer.content
    assert thought.thinking.strip() == f.THOUGHT
    assert said.text.strip() == f.THOUGHT_ANSWER


def errors(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.TOO_LONG}]
    call: Any = {"model": servers.model, "max_tokens": 10, "messages": messages}
    assert "4096" in raised(anthropic.BadRequestError, lambda: client(servers).messages.create(**call)).message
