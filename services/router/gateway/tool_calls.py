"""Streams one tool call as OpenAI's deltas, in whichever of LongCat's two formats it is written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.router.gateway.argument_values import is_whole
from services.router.gateway.json_call import JsonCall
from services.router.gateway.output_tags import Piece
from services.router.gateway.quoted_tags import Ambiguity
from services.router.gateway.xml_call import XmlCall


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A step of a call. The first has `name` and `call_id`; `arguments` is the next part of the JSON text."""

    index: int
    arguments: str
    name: str | None = None
    call_id: str | None = None


class CallStream:
    """Reads what is between a call's tags. Its first character tells the format."""

    def __init__(self, index: int, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self._index = index
        self._schemas = schemas
        self._reader: JsonCall | XmlCall | None = None
        self._texts: list[str] = []  # as long as there is no name
        self.named = False

    @property
    def body(self) -> str:
        """All text of a call that has no name yet."""
        return "".join(self._texts)

    @property
    def blank(self) -> bool:
        """Whether nothing but white space has come."""
        return self._reader is None

    @property
    def hopeless(self) -> bool:
        """Whether this cannot be read as a call, whatever follows."""
        return self._reader is not None and self._reader.hopeless

    def push(self, piece: Piece) -> list[ToolDelta]:
        """Returns the steps that are certain. A tag that has no meaning here is text."""
        if not self.named:
            self._texts.append(piece.text)
        if self._reader is None:
            begun = piece.text.lstrip()
            if not begun:
                return []
            is_json = begun[0] == "{" and not piece.is_tag
            self._reader = JsonCall() if is_json else XmlCall(self._schemas)
            piece = piece if piece.is_tag else Piece(begun)
        return self._steps(self._reader.push(piece))

    def ambiguity(self, tag: str) -> Ambiguity | None:
        """Returns the ambiguity that a tag raises which would end an argument, if it is within one."""
        return None if self._reader is None else self._reader.ambiguity(tag)

    def finish(self, *, cut: bool = False) -> list[ToolDelta]:
        """Returns the last steps of a call; `cut`: its end did not come. One that cannot be read has no name."""
        return [] if self._reader is None else self._steps(self._reader.finish(cut=cut))

    def _steps(self, arguments: str) -> list[ToolDelta]:
        assert self._reader is not None
        if self.named or self._reader.name is None or self._reader.hopeless:
            return [ToolDelta(self._index, arguments)] if arguments and self.named else []
        self.named, self._texts = True, []
        first = ToolDelta(self._index, "", self._reader.name, "call_" + secrets.token_hex(12))
        return [first, ToolDelta(self._index, arguments)] if arguments else [first]


class CallCheck:
    """Finds out whether the arguments of all calls were written to their end."""

    def __init__(self) -> None:
        self._parts: list[str] = []  # of the open call
        self._broken = False

    def push(self, step: ToolDelta) -> None:
        if step.name is not None:
            self._end_call()
        self._parts.append(step.arguments)

    def finish(self) -> bool:
        """Whether every call can be run."""
        self._end_call()
        return not self._broken

    def _end_call(self) -> None:
        self._broken = self._broken or not is_whole("".join(self._parts))
        self._parts = []
