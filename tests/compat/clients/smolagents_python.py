"""smolagents, the Python package: OpenAIModel, and ToolCallingAgent whole and streamed.

An agent's own prompt says more than the built-in model can read, so the agents here have none: only the task, what was
called, and what came of it, as smolagents writes them.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

import openai
from compat import features as f
from compat.features import Servers, raised
from smolagents import LogLevel, OpenAIModel, Tool, ToolCallingAgent
from smolagents.agents import EMPTY_PROMPT_TEMPLATES

QUESTION: Any = [{"role": "user", "content": f.QUESTION}]
SCHEMA = {
    "type": "object",
    "properties": {"even": {"type": "boolean"}},
    "required": ["even"],
    "additionalProperties": False,
}


class Weather(Tool):  # type: ignore[misc]
    name = f.WEATHER
    description = f.WEATHER_DESCRIPTION
    inputs = {"city": {"type": "string", "description": "its name"}}  # noqa: RUF012  # smolagents checks for this very form
    output_type = "string"

    def __init__(self) -> None:
        super().__init__()
        self.cities: list[str] = []

    def forward(self, city: str) -> str:
        self.cities.append(city)
        return f.WEATHER_RESULT


def model(servers: Servers, **more: Any) -> Any:
    settings: dict[str, Any] = {"temperature": 0, "client_kwargs": {"max_retries": 0}}
    return OpenAIModel(servers.model, api_base=servers.v1, api_key="unused", **settings | more)


def chat(servers: Servers) -> None:
    answer = model(servers).generate(QUESTION)
    assert f.ANSWER in answer.content
    assert answer.token_usage.output_tokens > 0


def streaming(servers: Servers) -> None:
    pieces = list(model(servers).generate_stream(QUESTION))
    assert f.ANSWER in "".join(piece.content or "" for piece in pieces)
    assert pieces[-1].token_usage.output_tokens > 0


def tools(servers: Servers) -> None:
    """One step with tools (smolagents requires a call, not which), then the agent asks for the final answer."""
    for stream in (False, True):
        tool = Weather()
        with redirect_stdout(sys.stderr):  # a streaming agent prints, whatever its level
            agent = ToolCallingAgent(
                [tool], model(servers), prompt_templates=EMPTY_PROMPT_TEMPLATES, max_steps=1, stream_outputs=stream,
                verbosity_level=LogLevel.OFF,
            )  # fmt: skip
            answer = agent.run(f.WEATHER_QUESTION)
        assert f.WEATHER_ANSWER in answer
        assert tool.cities == [f.WEATHER_CITY]


def forced_tool(servers: Servers) -> None:
    choice = {"type": "function", "function": {"name": f.WEATHER}}
    answer = model(servers).generate(QUESTION, tools_to_call_from=[Weather()], tool_choice=choice)
    (call,) = model(servers).parse_tool_calls(answer).tool_calls
    assert call.function.name == f.WEATHER
    assert set(call.function.arguments) == {"city"}


def structured_output(servers: Servers) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "parity", "schema": SCHEMA, "strict": True}}
    answer = model(servers).generate(QUESTION, response_format=form)
    assert isinstance(json.loads(answer.content)["even"], bool)


def seed(servers: Servers) -> None:
    asking = model(servers, temperature=1.5, seed=5, max_tokens=20)
    first, again = (asking.generate([{"role": "user", "content": "hello"}]).content for _ in range(2))
    assert first == again


def errors(servers: Servers) -> None:
    long: Any = [{"role": "user", "content": f.TOO_LONG}]
    error = raised(openai.BadRequestError, lambda: model(servers).generate(long))
    assert error.code == "context_length_exceeded"
    assert "4096" in error.message
