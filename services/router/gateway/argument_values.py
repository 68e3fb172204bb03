"""Values of tool arguments that a model wrote as text, as JSON. Pure; never raises, whatever the text is."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from pydantic_core import from_json

LITERAL_CHARS = 8192  # longer texts are not read as Python: 8192 characters take some 7 ms
LITERAL_DEPTH = 64  # brackets in brackets


def json_text(value: Any) -> str:
    """Returns a value as JSON. Raises TypeError, ValueError or RecursionError for one that JSON cannot express."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: it can be sent as an escape only
        return json.dumps(value)
    return text


def is_whole(arguments: str) -> bool:
    """Whether the text of a call's arguments is an object from its beginning to its end; empty is none at all."""
    try:
        return isinstance(from_json(arguments or "{}"), dict)
    except ValueError:
        return False


def is_string(schema: Mapping[str, Any], key: str) -> bool:
    """Whether the JSON schema of a tool's arguments says that one of them is a string."""
    properties = schema.get("properties")
    about = properties.get(key) if isinstance(properties, dict) else None
    return isinstance(about, dict) and about.get("type") == "string"


def typed_value(text: str) -> str:
    """Returns the JSON of an argument that is no string: read as JSON, else as a Python literal, else text itself."""
    for read in (json.loads, _literal):
        try:
            return json_text(read(text))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return json_text(text)


def _literal(text: str) -> Any:
    depths = accumulate((char in "([{") - (char in ")]}") for char in text)
    if len(text) > LITERAL_CHARS or max(depths, default=0) > LITERAL_DEPTH:
        raise ValueError("too long or too deep")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know: nobody could act on it
        return ast.literal_eval(text)
