"""litellm, the Python package, with its provider `hosted_vllm`."""

from __future__ import annotations

import json
from typing import Any

import litellm
from compat import features as f
from compat.features import Servers, raised

TOOL: Any = {
    "type": "function",
    "function": {"name": f.WEATHER, "description": f.WEATHER_DESCRIPTION, "parameters": f.WEATHER_SCHEMA},
}
SCHEMA = {
    "type": "object",
    "properties": {"even": {"type": "boolean"}},
    "required": ["even"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": f.QUESTION}]


def ask(servers: Servers, messages: list[Any] = QUESTION, **more: Any) -> Any:
    return litellm.completion(
        model=f"hosted_vllm/{servers.model}", api_base=servers.v1, messages=messages, temperature=0, **more
    )


def chat(servers: Servers) -> None:
    assert f.ANSWER in ask(servers).choices[0].message.content


def streaming(servers: Servers) -> None:
    pieces = ask(servers, stream=True)
    assert f.ANSWER in "".join(piece.choices[0].delta.content or "" for piece in pieces)


def tools(servers: Servers) -> None:
    messages: list[Any] = [{"role": "user", "content": f.WEATHER_QUESTION}]
    message = ask(servers, messages, tools=[TOOL]).choices[0].message
    used = message.tool_calls[0]
    assert json.loads(used.function.arguments) == {"city": f.WEATHER_CITY}
    messages += [message, {"role": "tool", "tool_call_id": used.id, "content": f.WEATHER_RESULT}]
    assert f.WEATHER_ANSWER in ask(servers, messages, tools=[TOOL]).choices[0].message.content


def forced_tool(servers: Servers) -> None:
    choice = {"type": "function", "function": {"name": f.WEATHER}}
    used = ask(servers, tools=[TOOL], tool_choice=choice).choices[0].message.tool_calls[0]
    assert set(json.loads(used.function.arguments)) == {"city"}


def structured_output(servers: Servers) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "parity", "schema": SCHEMA, "strict": True}}
    answer = ask(servers, response_format=form)
    assert isinstance(json.loads(answer.choices[0].message.content)["even"], bool)


def reasoning(servers: Servers) -> None:
    answer = litellm.completion(
        model=f"hosted_vllm/{servers.thinking_model}", api_base=servers.thinking_v1, messages=QUESTION
    )
    assert answer.choices[0].message.reasoning_content.strip() == f.THOUGHT
    assert answer.choices[0].message.content.strip() == f.THOUGHT_ANSWER


def completions(servers: Servers) -> None:
    answer = litellm.text_completion(
        model=f"hosted_vllm/{servers.model}", api_base=servers.v1, prompt=f.COMPLETION_PROMPT, temperature=0
    )
    assert f.ANSWER in answer.choices[0].text


def logprobs(servers: Servers) -> None:
    tokens = ask(servers, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def responses(servers: Servers) -> None:
    answer = litellm.responses(
        model=f"openai/{servers.model}", api_base=servers.v1, api_key="unused", input=f.QUESTION, temperature=0
    )
    assert f.ANSWER in answer.output[0].content[0].text


def seed(servers: Servers) -> None:
    call: Any = {"model": f"hosted_vllm/{servers.model}", "api_base": servers.v1, "seed": 5, "max_tokens": 20}
    messages = [{"role": "user", "content": "hello"}]
    first, again = (litellm.completion(messages=messages, temperature=1.5, **call) for _ in range(2))
    assert first.choices[0].message.content == again.choices[0].message.content


def errors(servers: Servers) -> None:
    raised(litellm.ContextWindowExceededError, lambda: ask(servers, [{"role": "user", "content": f.TOO_LONG}]))


def embeddings(servers: Servers) -> None:
    call: Any = {"model": f"openai/{servers.model}", "api_base": servers.v1, "api_key": "unused", "input": ["a"]}
    assert raised(litellm.APIError, lambda: litellm.embedding(**call)).status_code == 501
