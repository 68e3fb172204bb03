"""pydantic-ai, the Python package: agents over OpenAI's chat and Responses."""

from __future__ import annotations

import asyncio
from typing import Any

from compat import features as f
from compat.features import Servers, raised
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ThinkingPart, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


class Parity(BaseModel):
    """Whether the result is even."""

    even: bool


def model(servers: Servers) -> Any:
    return OpenAIChatModel(servers.model, provider=OpenAIProvider(base_url=servers.v1, api_key="unused"))


def agent(servers: Servers, **more: Any) -> Any:
    return Agent(model(servers), **{"model_settings": ModelSettings(temperature=0)} | more)


def chat(servers: Servers) -> None:
    assert f.ANSWER in agent(servers).run_sync(f.QUESTION).output


def streaming(servers: Servers) -> None:
    async def joined() -> str:
        async with agent(servers).run_stream(f.QUESTION) as run:
            return "".join([piece async for piece in run.stream_text(delta=True)])

    assert f.ANSWER in asyncio.run(joined())


def tools(servers: Servers) -> None:
    asking = agent(servers)
    cities: list[str] = []

    def weather(city: str) -> str:
        """Current weather of a city."""
        cities.append(city)
        return f.WEATHER_RESULT

    asking.tool_plain(weather, name=f.WEATHER)
    assert f.WEATHER_ANSWER in asking.run_sync(f.WEATHER_QUESTION).output
    assert cities == [f.WEATHER_CITY]


def forced_tool(servers: Servers) -> None:
    assert isinstance(agent(servers, output_type=ToolOutput(Parity)).run_sync(f.QUESTION).output, Parity)


def structured_output(servers: Servers) -> None:
    assert isinstance(agent(servers, output_type=NativeOutput(Parity)).run_sync(f.QUESTION).output, Parity)


def reasoning(servers: Servers) -> None:
    provider = OpenAIProvider(base_url=servers.thinking_v1, api_key="unused")
    run = Agent(OpenAIChatModel(servers.thinking_model, provider=provider)).run_sync(f.QUESTION)
    thoughts = [part for part in run.response.parts if isinstance(part, ThinkingPart)]
    assert [part.content.strip() for part in thoughts] == [f.THOUGHT]
    assert run.output.strip() == f.THOUGHT_ANSWER


def responses(servers: Servers) -> None:
    provider = OpenAIProvider(base_url=servers.v1, api_key="unused")
    asking = Agent(OpenAIResponsesModel(servers.model, provider=provider), model_settings=ModelSettings(temperature=0))
    assert f.ANSWER in asking.run_sync(f.QUESTION).output


def seed(servers: Servers) -> None:
    settings = ModelSettings(temperature=1.5, seed=5, max_tokens=20)
    first, again = (agent(servers, model_settings=settings).run_sync("hello").output for _ in range(2))
    assert first == again


def errors(servers: Servers) -> None:
    error = raised(ModelHTTPError, lambda: agent(servers).run_sync(f.TOO_LONG))
    assert error.status_code == 400
    assert "context_length_exceeded" in str(error.body)
