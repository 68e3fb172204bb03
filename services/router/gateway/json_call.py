"""Reads a tool call in the JSON format: {"name": "get_weather", "arguments": {"city": "Paris"}}."""

from __future__ import annotations

import json
import re

from services.router.gateway.argument_values import json_text
from services.router.gateway.output_tags import END_TOOL, TOOL, Piece
from services.router.gateway.quoted_tags import Ambiguity, AmbiguityInString

# Everything before the arguments in the usual key order; possessive by construction, so linear.
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\\x00-\x1f]{1,256})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\\x00-\x1f]{1,256})"')  # all that may have come of a call that is cut
HEAD_CHARS = 1024

_MARKS = re.compile(r'["\\{}\[\]]')


class JsonText:
    """Follows JSON as it comes: how deep it is nested, and whether a string is open."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def push(self, text: str, until: int = 0) -> int | None:
        """Returns how many characters it takes to come back to the depth `until`; None if the text does not."""
        end: int | None = None
        skip = 1 if self._escaped and text else 0
        self._escaped = self._escaped and not text
        for mark in _MARKS.finditer(text, skip):
            place, char = mark.start(), mark[0]
            if place < skip:
                continue
            if self.in_string:
                if char == "\\":
                    skip = place + 2
                    self._escaped = skip > len(text)
                self.in_string = char != '"'
            elif char == '"':
                self.in_string = True
            elif char != "\\":
                self.depth += 1 if char in "{[" else -1
                if end is None and char in "}]" and self.depth == until:
                    end = place + 1
        return end


class JsonCall:
    """Streams the arguments if the name comes first; in any other order they wait for the call's end."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._json = JsonText()
        self._texts: list[str] = []
        self._size = 0
        self._complete = False  # all arguments were returned

    @property
    def hopeless(self) -> bool:
        return False  # keys may come in any order, so only the end tells

    def push(self, piece: Piece) -> str:
        """Returns the next part of the arguments. A tag in here is text."""
        text = piece.text
        if self.name is not None:
            return self._arguments(text)
        begun, self._size = self._size, self._size + len(text)
        self._texts.append(text)
        if begun < HEAD_CHARS:
            body = "".join(self._texts)
            head = HEAD.match(body[:HEAD_CHARS])
            if head is not None:
                self.name = head[1]
                self._json.push(body[begun : head.end()])
                return self._arguments(body[head.end() :])
        self._json.push(text)
        return ""

    def ambiguity(self, tag: str) -> Ambiguity | None:
        """Returns the ambiguity that a tag here raises: within a string it may be text."""
        return AmbiguityInString() if self._json.in_string and tag in (TOOL, END_TOOL) else None

    def finish(self, *, cut: bool) -> str:
        """Returns the rest of the arguments, at the call's end; sets `name` if the call can be read."""
        if self.name is not None:
            return ""
        text = "".join(self._texts)
        read = read_json_call(text)
        if read is None:
            found = NAME.match(text[:HEAD_CHARS]) if cut else None
            self.name = found[1] if found else None
            return ""
        self.name, arguments = read
        return arguments

    def _arguments(self, text: str) -> str:
        end = self._json.push(text, until=1)
        if self._complete:
            return ""
        self._complete = end is not None
        return text[:end]


def read_json_call(body: str) -> tuple[str, str] | None:
    """Returns (name, arguments as JSON text) of a complete call in the JSON format, in any key order."""
    try:
        call = json.loads(body)
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"].strip():
            return None
        call["name"].encode()
        arguments = call.get("arguments", call.get("parameters"))
        if isinstance(arguments, str):
            arguments.encode()
            return call["name"], arguments if arguments.strip() else "{}"
        return call["name"], "{}" if arguments is None else json_text(arguments)
    except (ValueError, RecursionError):
        return None
