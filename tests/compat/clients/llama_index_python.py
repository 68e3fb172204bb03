"""llama-index, the Python package llama-index-llms-openai-like: OpenAILike and an agent's loop."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
from compat import features as f
from compat.features import Servers, raised
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

QUESTION = [ChatMessage(f.QUESTION)]


class Parity(BaseModel):
    """Whether the result is even."""

    even: bool


def model(servers: Servers, **more: Any) -> Any:
    settings: dict[str, Any] = {"model": servers.model, "api_base": servers.v1, "temperature": 0, "max_tokens": 100}
    kind = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    return OpenAILike(api_key="unused", max_retries=0, context_window=4096, **settings | kind | more)


def chat(servers: Servers) -> None:
    assert f.ANSWER in model(servers).chat(QUESTION).message.content


def streaming(servers: Servers) -> None:
    assert f.ANSWER in "".join(piece.delta or "" for piece in model(servers).stream_chat(QUESTION))


def tools(servers: Servers) -> None:
    cities: list[str] = []

    def weather(city: str) -> str:
        cities.append(city)
        return f.WEATHER_RESULT

    tool = FunctionTool.from_defaults(weather, name=f.WEATHER, description=f.WEATHER_DESCRIPTION)

    async def answer() -> str:
        return str(await FunctionAgent(tools=[tool], llm=model(servers)).run(f.WEATHER_QUESTION))

    assert f.WEATHER_ANSWER in asyncio.run(answer())
    assert cities == [f.WEATHER_CITY]


def forced_tool(servers: Servers) -> None:
    tool = FunctionTool.from_defaults(lambda city: city, name=f.WEATHER, description=f.WEATHER_DESCRIPTION)
    asking = model(servers)
    answer = asking.chat_with_tools([tool], user_msg=f.QUESTION, tool_choice=f.WEATHER)
    assert asking.get_tool_calls_from_response(answer)[0].tool_name == f.WEATHER


def structured_output(servers: Servers) -> None:
    assert isinstance(model(servers).as_structured_llm(Parity).chat(QUESTION).raw, Parity)


def completions(servers: Servers) -> None:
    assert f.ANSWER in model(servers, is_chat_model=False).complete(f.COMPLETION_PROMPT).text


def logprobs(servers: Servers) -> None:
    tokens = model(servers, logprobs=True, top_logprobs=2).chat(QUESTION).logprobs
    assert tokens
    assert all(place[0].logprob <= 0 for place in tokens)


def seed(servers: Servers) -> None:
    asking = model(servers, temperature=1.5, max_tokens=20, additional_kwargs={"seed": 5})
    first, again = (asking.chat([ChatMessage("hello")]).message.content for _ in range(2))
    assert first == again


def errors(servers: Servers) -> None:
    error = raised(openai.BadRequestError, lambda: model(servers).chat([ChatMessage(f.TOO_LONG)]))
    assert error.code == "context_length_exceeded"
