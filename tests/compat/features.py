"""The features of a client that docs/compatibility.md tells apart, and what an exercise is given.

Client modules import this in virtual environments of their own: the standard library is all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Raised = TypeVar("Raised", bound=Exception)

# A client's module has a function of that name for each feature that the client has. Name -> column, what is exercised.
FEATURES = {
    "chat": ("chat", "one answer, its text checked"),
    "streaming": ("streaming", "the pieces of a stream, joined and checked"),
    "tools": ("tools", "the model calls a tool of its own accord, the result goes back, the answer names it"),
    "forced_tool": ("forced tool", "`tool_choice` names the tool; the arguments are checked"),
    "structured_output": ("structured output", "an answer after a JSON schema, parsed by the client"),
    "reasoning": ("reasoning", "what a thinking model thinks is shown apart from its answer"),
    "completions": ("completions", "a text continued, without a chat template"),
    "logprobs": (
        "logprobs",
        "log-probabilities in the client's own types; lm-eval's sums are within 0.001 of transformers'",
    ),
    "responses": ("Responses", "OpenAI's Responses API"),
    "seed": ("seed", "two answers at temperature 1.5 with one seed are the same"),
    "errors": (
        "errors",
        "a prompt too long raises the client's own exception for HTTP 400, with the message; load generators report it",
    ),
    "embeddings": ("embeddings", "not served: the client's own exception says so, with status 501, or their report"),
}

QUESTION, ANSWER = "What is 12 + 30?", "42"
COMPLETION_PROMPT = "[Round 0] USER:What is 12 + 30? ASSISTANT:"  # as the built-in model's template writes it
WEATHER = "get_weather"  # the tool: a city's weather
WEATHER_QUESTION, WEATHER_CITY = "What is the weather in Paris?", "Paris"
WEATHER_RESULT, WEATHER_ANSWER = '{"celsius": 21, "sky": "sunny"}', "21 degrees"
WEATHER_DESCRIPTION = "Current weather of a city."
WEATHER_SCHEMA: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCORED = [(COMPLETION_PROMPT, "12 + 30 = 42"), (COMPLETION_PROMPT, "12 + 30 = 43")]  # the first is what it answers
TOO_LONG = "What is 12 + 30? " * 3000


@dataclass(frozen=True)
class Servers:
    """URLs without a path, and the models' names there."""

    url: str  # of the built-in model
    model: str
    thinking_url: str  # of a model that thinks THOUGHT, then answers THOUGHT_ANSWER
    thinking_model: str
    model_path: str = ""  # the built-in model's folder, for its tokenizer
    scores: tuple[float, ...] = ()  # the log-likelihoods of SCORED by transformers, in nats

    @property
    def v1(self) -> str:
        return self.url + "/v1"

    @property
    def thinking_v1(self) -> str:
        return self.thinking_url + "/v1"


THOUGHT, THOUGHT_ANSWER = "Let me see.", "forty-two"


def raised(kind: type[Raised] | tuple[type[Raised], ...], call: Callable[[], Any]) -> Raised:
    """Returns the error of that class which `call` raises; another class is raised on."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("no error")
