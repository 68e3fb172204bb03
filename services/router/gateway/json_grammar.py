"""The grammar of an answer's format, as one of the grammars of llguidance's JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from services.router.gateway.output_schemas import ResponseFormat, StructuredOutputs
from services.router.gateway.request_body import parse_json
from services.router.requests.errors import InvalidRequest

# Between the parts of JSON. Without a bound, a model that has lost its way writes blank lines up to its limit.
WHITE_SPACE = r"[ \n\r\t]{1,32}"
OBJECT: Mapping[str, Any] = {"type": "object"}

SLASH = re.compile(r"\\.|/|\n", re.DOTALL)  # what would end a Lark regular expression, but for escapes

Grammar = dict[str, Any]


def format_grammar(
    response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
) -> tuple[Grammar | None, str]:
    """Returns the grammar of the format that is asked for, and the field that asks. Raises InvalidRequest."""
    asked = None if response_format is None or response_format.type == "text" else response_format
    structured = None if structured_outputs is None else _structured(structured_outputs)
    if asked is None or structured is None:
        if asked is not None:
            schema = OBJECT if asked.json_schema is None else asked.json_schema.json_schema
            return _json(schema, None), "response_format"
        return structured, "structured_outputs" if structured is not None else ""
    raise InvalidRequest("response_format and structured_outputs cannot be combined.", param="structured_outputs")


def _structured(asked: StructuredOutputs) -> Grammar | None:
    if asked.disable_any_whitespace and asked.whitespace_pattern is not None:
        raise InvalidRequest(
            "structured_outputs: whitespace_pattern and disable_any_whitespace exclude each other.",
            param="structured_outputs",
        )
    white_space = "" if asked.disable_any_whitespace else asked.whitespace_pattern
    if asked.json_ is not None:
        return _json(_schema(asked.json_), white_space)
    if asked.json_object:
        return _json(OBJECT, white_space)
    if white_space is not None:
        raise InvalidRequest(
            "structured_outputs: rules of white space need json or json_object.", param="structured_outputs"
        )
    if asked.regex is not None:
        return {"lark_grammar": f"start: /{SLASH.sub(_escaped, asked.regex)}/"}
    if asked.choice is not None:
        return {"lark_grammar": "start: " + " | ".join(json.dumps(text) for text in dict.fromkeys(asked.choice))}
    return None if asked.grammar is None else {"lark_grammar": _lark(asked.grammar)}


def _schema(given: Any) -> Any:
    """A schema may come as text, too."""
    if not isinstance(given, str):
        return given
    try:
        schema = parse_json(given.encode(errors="replace"))
    except InvalidRequest as error:
        raise InvalidRequest(f"structured_outputs.json: {error.message}", param="structured_outputs") from None
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest("structured_outputs.json: a schema is an object.", param="structured_outputs")
    return schema


def _json(schema: Any, white_space: str | None) -> Grammar:
    """`white_space`: a pattern for it between the parts; empty = none."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return {"json_schema": bounded(schema, white_space)}


def bounded(schema: Mapping[str, Any], white_space: str | None = None) -> dict[str, Any]:
    """Returns a schema with its rule of white space: WHITE_SPACE if None, none at all if empty."""
    rules = {"whitespace_flexible": False} if white_space == "" else {"whitespace_pattern": white_space or WHITE_SPACE}
    return {**schema, "x-guidance": rules}


def _lark(text: str) -> str:
    """A grammar in Lark or in GBNF, as Lark."""
    from llguidance.gbnf_to_lark import any_to_lark  # 10 ms, which only such requests pay

    try:
        return str(any_to_lark(text))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        message = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise InvalidRequest(f"structured_outputs.grammar: {message}", param="structured_outputs") from None


def _escaped(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(found[0], found[0])
