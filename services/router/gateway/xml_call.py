"""Reads a tool call in the XML format, and streams its arguments as JSON.

get_weather<longcat_arg_key>city</longcat_arg_key><longcat_arg_value>Paris</longcat_arg_value>

As in the model's own parser, names, keys and values are stripped, a closing tag that was forgotten is taken as written
where the next tag stands, and what is not in an element is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from services.router.gateway.argument_values import is_string, json_text, typed_value
from services.router.gateway.output_tags import END_KEY, END_TOOL, END_VALUE, KEY, TOOL, VALUE, Piece
from services.router.gateway.quoted_tags import Ambiguity, AmbiguityInValue
from services.router.gateway.white_space import Trimmer

NAME = re.compile(r'([^\s{}\[\]<>",]{1,256})\s{0,256}')


class XmlCall:
    """Streams a string value as it comes, any other value when it is complete."""

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self.name: str | None = None
        self.hopeless = False  # whether this is no call, whatever follows
        self._schemas = schemas
        self._state: Literal["name", "between", "key", "before value", "value"] = "name"
        self._texts: list[str] = []  # of the name, the key or the value
        self._key = ""
        self._string: Trimmer | None = None  # the value is a string
        self._values = 0

    def push(self, piece: Piece) -> str:
        """Returns the next part of the arguments."""
        if piece.is_tag and piece.text in (KEY, END_KEY, VALUE, END_VALUE):
            return self._tag(piece.text)
        return self._text(piece.text)

    def ambiguity(self, tag: str) -> Ambiguity | None:
        """Returns the ambiguity that a tag here raises: within a value it may be text."""
        return AmbiguityInValue() if self._state == "value" and tag in (TOOL, END_TOOL, KEY, VALUE) else None

    def finish(self, *, cut: bool) -> str:
        """Returns the rest of the arguments, at the call's end. An answer that was `cut` leaves them open."""
        if cut:
            if self._state == "name" and self._taken()[-1:].isspace():
                self._read_name()
            return ""
        if self._state == "name":
            self._read_name()
            return "{}" if self.name is not None else ""
        ending = self._end_value() if self._state == "value" else ""
        return ending + ("}" if self._values else "{}")

    def _text(self, text: str) -> str:
        if self._state == "value" and self._string is not None:
            return _escaped(self._string.push(text))
        if self._state in ("name", "key", "value"):
            self._texts.append(text)
        if self._state == "name":
            self.hopeless = NAME.fullmatch(self._taken()) is None
        return ""

    def _tag(self, tag: str) -> str:
        if self._state == "name":
            self._read_name()
            self.hopeless = self.name is None or tag != KEY
            self._state = "key"
        elif self._state == "value":
            if tag in (VALUE, END_KEY):
                return self._text(tag)
            self._state, ending = ("key" if tag == KEY else "between"), self._end_value()
            return ending
        elif tag == VALUE and self._state != "between":
            return self._begin_value()
        elif tag == KEY:
            self._state, self._texts = "key", []
        elif tag == END_KEY and self._state == "key":
            self._state = "before value"
        return ""

    def _read_name(self) -> None:
        found = NAME.fullmatch(self._taken())
        self.name = found[1] if found else None
        self._texts = []

    def _begin_value(self) -> str:
        self._key, self._texts = self._taken().strip(), []
        schema = self._schemas.get(self.name or "", {})
        self._string = Trimmer(start=True, end=True) if is_string(schema, self._key) else None
        self._state = "value"
        begin = ("{" if self._values == 0 else ", ") + json_text(self._key) + ": "
        self._values += 1
        return begin + ('"' if self._string is not None else "")

    def _end_value(self) -> str:
        text, self._texts = self._taken(), []
        return '"' if self._string is not None else typed_value(text.strip())

    def _taken(self) -> str:
        return "".join(self._texts)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
