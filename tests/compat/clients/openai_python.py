"""openai, the Python package: chats, completions and responses."""

from __future__ import annotations

import json
from typing import Any

import openai
from compat import features as f
from compat.features import Servers, raised
from pydantic import BaseModel

TOOL: Any = {
    "type": "function",
    "function": {"name": f.WEATHER, "description": f.WEATHER_DESCRIPTION, "parameters": f.WEATHER_SCHEMA},
}


class Parity(BaseModel):
    even: bool


def client(servers: Servers) -> openai.OpenAI:
    return openai.OpenAI(base_url=servers.v1, api_key="unused", max_retries=0)


def chat(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.QUESTION}]
    answer = client(servers).chat.completions.create(model=servers.model, messages=messages, temperature=0)
    assert f.ANSWER in (answer.choices[0].message.content or "")
    assert answer.usage
    assert answer.usage.completion_tokens > 0


def streaming(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.QUESTION}]
    options: Any = {"include_usage": True}
    pieces = list(
        client(servers).chat.completions.create(
            model=servers.model, messages=messages, temperature=0, stream=True, stream_options=options
        )
    )
    assert f.ANSWER in "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert pieces[-1].usage


def tools(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.WEATHER_QUESTION}]
    call: Any = {"model": servers.model, "tools": [TOOL], "temperature": 0}
    message = client(servers).chat.completions.create(messages=messages, **call).choices[0].message
    used = message.tool_calls[0]
    assert json.loads(used.function.arguments) == {"city": f.WEATHER_CITY}
    messages += [message, {"role": "tool", "tool_call_id": used.id, "content": f.WEATHER_RESULT}]
    answer = client(servers).chat.completions.create(messages=messages, **call).choices[0].message
    assert f.WEATHER_ANSWER in answer.content


def forced_tool(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.QUESTION}]
    choice: Any = {"type": "function", "function": {"name": f.WEATHER}}
    answer: Any = client(servers).chat.completions.create(
        model=servers.model, messages=messages, tools=[TOOL], tool_choice=choice, temperature=0
    )
    assert set(json.loads(answer.choices[0].message.tool_calls[0].function.arguments)) == {"city"}


def structured_output(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.QUESTION}]
    answer = client(servers).chat.completions.parse(model=servers.model, messages=messages, response_format=Parity)
    assert isinstance(answer.choices[0].message.parsed, Parity)


def reasoning(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.QUESTION}]
    thinking = openai.OpenAI(base_url=servers.thinking_v1, api_key="unused")
    message: Any = thinking.chat.completions.create(model=servers.thinking_model, messages=messages).choices[0].message
    assert message.reasoning_content.strip() == f.THOUGHT
    assert message.content.strip() == f.THOUGHT_ANSWER


def completions(servers: Servers) -> None:
    answer = client(servers).completions.create(model=servers.model, prompt=f.COMPLETION_PROMPT, temperature=0)
    assert f.ANSWER in answer.choices[0].text


def logprobs(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.QUESTION}]
    answer: Any = client(servers).chat.completions.create(
        model=servers.model, messages=messages, temperature=0, logprobs=True, top_logprobs=2
    )
    tokens = answer.choices[0].logprobs.content
    assert tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def responses(servers: Servers) -> None:
    first = client(servers).responses.create(model=servers.model, input="My name is Ann.", temperature=0)
    answer = client(servers).responses.create(
        model=servers.model, input=f.QUESTION, temperature=0, previous_response_id=first.id
    )
    assert f.ANSWER in answer.output_text
    with client(servers).responses.stream(model=servers.model, input=f.QUESTION, temperature=0) as events:
        assert f.ANSWER in events.until_done().get_final_response().output_text


def seed(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    call: Any = {"model": servers.model, "messages": messages, "temperature": 1.5, "seed": 5, "max_tokens": 20}
    first, again = (client(servers).chat.completions.create(**call) for _ in range(2))
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.system_fingerprint


def errors(servers: Servers) -> None:
    messages: Any = [{"role": "user", "content": f.TOO_LONG}]
    chats = client(servers).chat.completions
    error = raised(openai.BadRequestError, lambda: chats.create(model=servers.model, messages=messages))
    assert error.code == "context_length_exceeded"


def embeddings(servers: Servers) -> None:
    embedder = client(servers).embeddings
    error = raised(openai.APIStatusError, lambda: embedder.create(model=servers.model, input="a"))
    assert error.status_code == 501
