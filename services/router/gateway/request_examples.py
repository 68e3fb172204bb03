"""Bodies of requests that the OpenAPI document shows, by route: people read them, and tests begin with them."""

from __future__ import annotations

from typing import Any

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {
        "plain": {"messages": ASKED, "max_completion_tokens": 16},
        "streamed": {
            "messages": [{"role": "system", "content": "Be brief."}, *ASKED],
            "max_completion_tokens": 16,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "tools": {"messages": ASKED, "max_completion_tokens": 16, "tools": [CHAT_TOOL], "tool_choice": "auto"},
        "scored": {
            "messages": ASKED,
            "max_completion_tokens": 16,
            "n": 2,
            "seed": 7,
            "logprobs": True,
            "top_logprobs": 2,
        },
    },
    "/v1/completions": {
        "plain": {"prompt": "The cat sat on", "max_tokens": 16, "temperature": 0},
        "streamed": {"prompt": "The cat sat on", "max_tokens": 16, "stream": True},
        "ids": {"prompt": [[5, 6, 7], [8, 9]], "max_tokens": 16, "logprobs": 2, "stop": ["\n"]},
    },
    "/v1/responses": {
        "plain": {"input": "What is the weather in Oslo?", "max_output_tokens": 16},
        "streamed": {"input": ASKED, "instructions": "Be brief.", "max_output_tokens": 16, "stream": True},
        "tools": {
            "input": ASKED,
            "max_output_tokens": 16,
            "tools": [{"type": "function", "name": "get_weather", "parameters": WEATHER}],
            "store": False,
        },
    },
    "/v1/messages": {
        "plain": {"messages": ASKED, "max_tokens": 16},
        "streamed": {"messages": ASKED, "max_tokens": 16, "system": "Be brief.", "stream": True},
        "tools": {
            "messages": ASKED,
            "max_tokens": 16,
            "tools": [{"name": "get_weather", "input_schema": WEATHER}],
            "tool_choice": {"type": "auto"},
        },
    },
    "/v1/messages/count_tokens": {"plain": {"messages": ASKED}},
    "/tokenize": {
        "text": {"prompt": "The cat sat on the mat", "return_token_strs": True},
        "chat": {"messages": ASKED, "add_generation_prompt": True},
    },
    "/detokenize": {"plain": {"tokens": [5, 6, 7]}},
}


def examples(path: str, model: str) -> dict[str, Any]:
    """Returns the examples of a route, in OpenAPI's form, of requests to `model`."""
    return {name: {"value": body | {"model": model}} for name, body in EXAMPLES[path].items()}
