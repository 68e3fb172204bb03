"""Parses one tool call as LongCat writes it, in either format, and streams it as OpenAI's deltas.

JSON   {"name": "get_weather", "arguments": {"city": "Paris"}}
XML    get_weather<longcat_arg_key>city</longcat_arg_key><longcat_arg_value>Paris</longcat_arg_value>
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY, END_KEY = "<longcat_arg_key>", "</longcat_arg_key>"
VALUE, END_VALUE = "<longcat_arg_value>", "</longcat_arg_value>"

# Everything before the arguments in the usual key order; possessive by construction, so linear.
JSON_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("[^"\\]{1,256}")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
HEAD_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A step of a call. The first has `name` and `call_id`; `arguments` is the next part of the JSON text."""

    index: int
    arguments: str
    name: str | None = None
    call_id: str | None = None


class CallStream:
    """Reads one call's body. Arguments in the JSON format are streamed; anything else waits for the call's end."""

    def __init__(self, index: int, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self._index = index
        self._schemas = schemas
        self._texts: list[str] = []
        self._scan: JsonExtent | None = None
        self._size = 0
        self.named = False

    @property
    def body(self) -> str:
        return "".join(self._texts)

    def push(self, text: str) -> list[ToolDelta]:
        self._texts.append(text)
        if self._scan is not None:
            return self._arguments(text)
        if self._size > HEAD_LIMIT:
            return []
        self._size += len(text)
        body = self.body
        head = JSON_HEAD.match(body)
        if head is None:
            return []
        self._scan = JsonExtent()
        return [self._named(json.loads(head[1])), *self._arguments(body[head.end() :])]

    def finish(self) -> list[ToolDelta]:
        """Returns the whole call unless it was streamed; nothing when it cannot be read (`named` stays false)."""
        if self.named:
            return []
        read = read_json_call(self.body) or read_xml_call(self.body, self._schemas)
        if read is None:
            return []
        name, arguments = read
        return [self._named(name), ToolDelta(self._index, arguments)]

    def _named(self, name: str) -> ToolDelta:
        self.named = True
        return ToolDelta(self._index, "", name, "call_" + secrets.token_hex(12))

    def _arguments(self, text: str) -> list[ToolDelta]:
        assert self._scan is not None
        taken = text[: self._scan.push(text)]
        return [ToolDelta(self._index, taken)] if taken else []


class JsonExtent:
    """Finds the end of one JSON object in a stream of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._done = False

    def push(self, text: str) -> int:
        """Returns how many characters of `text` still belong to the object."""
        for i, char in enumerate(text):
            if self._done:
                return i
            if self._in_string:
                self._string(char)
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                self._done = self._depth == 0
        return len(text)

    def _string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False


def read_json_call(body: str) -> tuple[str, str] | None:
    """Returns (name, arguments as JSON text) of a complete call in the JSON format, in any key order."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def read_xml_call(body: str, schemas: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Returns (name, arguments as JSON text) of a call in the XML format; the tool's schema gives the values' types."""
    name, *parts = body.split(KEY)
    name = name.strip()
    if not name or any(char in name for char in '{}<>"\n'):
        return None
    arguments: dict[str, Any] = {}
    for part in parts:
        key, end_key, rest = part.partition(END_KEY)
        _, begin, rest = rest.partition(VALUE)
        value, end, _ = rest.partition(END_VALUE)
        if not (end_key and begin and end):
            return None
        arguments[key.strip()] = _typed(value, schemas.get(name, {}), key.strip())
    return name, json.dumps(arguments, ensure_ascii=False)


def _typed(value: str, schema: Mapping[str, Any], key: str) -> Any:
    properties = schema.get("properties")
    about = properties.get(key) if isinstance(properties, dict) else None
    if isinstance(about, dict) and about.get("type") == "string":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
