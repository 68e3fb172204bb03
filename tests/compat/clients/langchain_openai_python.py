"""langchain-openai, the Python package: ChatOpenAI, OpenAI and OpenAIEmbeddings."""

from __future__ import annotations

from typing import Any

import openai
from compat import features as f
from compat.features import Servers, raised
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Parity(BaseModel):
    """Whether the result is even."""

    even: bool


@tool(f.WEATHER)
def weather(city: str) -> str:
    """Current weather of a city."""
    return f.WEATHER_RESULT


def model(servers: Servers, **more: Any) -> Any:
    settings: dict[str, Any] = {"temperature": 0, "base_url": servers.v1, "model": servers.model}
    return ChatOpenAI(api_key="unused", max_retries=0, **settings | more)


def chat(servers: Servers) -> None:
    assert f.ANSWER in model(servers).invoke(f.QUESTION).content


def streaming(servers: Servers) -> None:
    assert f.ANSWER in "".join(piece.content for piece in model(servers).stream(f.QUESTION))


def tools(servers: Servers) -> None:
    bound = model(servers).bind_tools([weather])
    message = bound.invoke(f.WEATHER_QUESTION)
    call = message.tool_calls[0]
    assert call["args"] == {"city": f.WEATHER_CITY}
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert f.WEATHER_ANSWER in bound.invoke([("user", f.WEATHER_QUESTION), message, result]).content


def forced_tool(servers: Servers) -> None:
    message = model(servers).bind_tools([weather], tool_choice=f.WEATHER).invoke(f.QUESTION)
    assert set(message.tool_calls[0]["args"]) == {"city"}


def structured_output(servers: Servers) -> None:
    for method in ("json_schema", "function_calling"):
        answer = model(servers).with_structured_output(Parity, method=method).invoke(f.QUESTION)
        assert isinstance(answer, Parity)


def completions(servers: Servers) -> None:
    text = OpenAI(base_url=servers.v1, api_key="unused", model=servers.model, temperature=0, max_tokens=20)
    assert f.ANSWER in text.invoke(f.COMPLETION_PROMPT)


def logprobs(servers: Servers) -> None:
    message = model(servers, logprobs=True, top_logprobs=2).invoke(f.QUESTION)
    tokens = message.response_metadata["logprobs"]["content"]
    assert tokens
    assert all(token["logprob"] <= 0 for token in tokens)


def responses(servers: Servers) -> None:
    assert f.ANSWER in model(servers, use_responses_api=True).invoke(f.QUESTION).text


def reasoning(servers: Servers) -> None:
    where: dict[str, Any] = {"base_url": servers.thinking_v1, "model": servers.thinking_model}
    message = model(servers, use_responses_api=True, output_version="v1", **where).invoke(f.QUESTION)
    kinds = [block["type"] for block in message.content_blocks]
    assert kinds == ["reasoning", "text"], kinds
    assert f.THOUGHT in str(message.content_blocks[0]), message.content_blocks[0]


def seed(servers: Servers) -> None:
    first, again = (model(servers, temperature=1.5, seed=5, max_tokens=20).invoke("hello") for _ in range(2))
    assert first.content == again.content


def errors(servers: Servers) -> None:
    error = raised(openai.BadRequestError, lambda: model(servers).invoke(f.TOO_LONG))
    assert error.code == "context_length_exceeded"


def embeddings(servers: Servers) -> None:
    embedder = OpenAIEmbeddings(
        base_url=servers.v1, api_key="unused", model=servers.model, check_embedding_ctx_length=False, max_retries=0
    )
    assert raised(openai.APIStatusError, lambda: embedder.embed_query("a")).status_code == 501
