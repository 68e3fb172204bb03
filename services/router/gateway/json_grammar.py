"""The grammar of an answer's format, as one of the grammars of llguidance's JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from services.router.gateway.output_schemas import ResponseFormat, StructuredOutputs
from services.router.gateway.request_body import parse_json
from services.router.gateway.user_grammar import lark_of
from services.router.requests.errors import InvalidRequest

# Between the parts of JSON: what serializers write, one space, or a line end with an indentation. Without a bound, a
# model that has lost its way writes blank lines up to its limit.
WHITE_SPACE = r" |\n( {0,16}|\t{0,8})"
OBJECT: Mapping[str, Any] = {"type": "object"}

SLASH = re.compile(r"\\.|/|\n", re.DOTALL)  # what would end a Lark regular expression, but for escapes

Grammar = dict[str, Any]


def format_grammar(
    response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
) -> tuple[Grammar | None, str]:
    """Returns the grammar of the format that is asked for, and the field that has it. Raises InvalidRequest."""
    asked = None if response_format is None or response_format.type == "text" else response_format
    structured, field = (None, "") if structured_outputs is None else _structured(structured_outputs)
    if asked is None or structured is None:
        if asked is None:
            return structured, field
        if asked.json_schema is None:
            return _json(OBJECT, None), "response_format"
        return _json(asked.json_schema.json_schema, None), "response_format.json_schema.schema"
    raise InvalidRequest(f"{field} cannot be combined with response_format.", param=field)


def _structured(asked: StructuredOutputs) -> tuple[Grammar | None, str]:
    white_space = "" if asked.disable_any_whitespace else asked.whitespace_pattern
    if asked.json_ is not None:
        field = asked.field("json")
        return _json(_schema(asked.json_, field), white_space), field
    if asked.json_object:
        return _json(OBJECT, white_space), asked.field("json_object")
    if asked.regex is not None:
        return {"lark_grammar": f"start: /{SLASH.sub(_escaped, asked.regex)}/"}, asked.field("regex")
    if asked.choice is not None:
        options = " | ".join(json.dumps(text) for text in dict.fromkeys(asked.choice))
        return {"lark_grammar": f"start: {options}"}, asked.field("choice")
    if asked.grammar is None:
        return None, ""
    field = asked.field("grammar")
    return {"lark_grammar": lark_of(asked.grammar, field)}, field


def _schema(given: Any, field: str) -> Any:
    """A schema may come as text, too."""
    if not isinstance(given, str):
        return given
    try:
        schema = parse_json(given.encode(errors="replace"))
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {error.message.replace('The body', 'the text')}", param=field) from None
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest(f"{field}: a schema is an object.", param=field)
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


def _escaped(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(found[0], found[0])
