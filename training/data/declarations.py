"""How clients write the declaration of a tool, and its results."""

from __future__ import annotations

import json
from random import Random
from typing import Any


def declaration(rng: Random, name: str, description: str, properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns a tool as plain clients, pydantic-ai and LangChain declare it: they differ in further keys and order."""
    style = rng.randrange(4)
    spelled = {
        parameter: {"title": parameter.title(), **schema} if style == 2 else schema
        for parameter, schema in properties.items()
    }
    required = list(properties)
    parameters: dict[str, Any] = {"type": "object", "properties": spelled, "required": required}
    if style == 1:
        parameters = {"additionalProperties": False, "properties": spelled, "required": required, "type": "object"}
    elif style == 3:
        parameters = {"properties": spelled, "required": required, "type": "object"}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def result_text(rng: Random, result: dict[str, Any]) -> str:
    """Returns a result as servers and agents write it: JSON with or without white space, or a lone value as it is."""
    if len(result) == 1 and rng.random() < 0.25:
        (value,) = result.values()
        return "ok" if value is True else str(value)
    return json.dumps(result) if rng.random() < 0.6 else json.dumps(result, separators=(",", ":"))
