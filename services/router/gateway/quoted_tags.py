"""Decides what a tag within an argument is: text of the argument, or the end of a call that was not written to its end.

What comes after it tells. Until then it is held back.
"""

from __future__ import annotations

from typing import Protocol

from services.router.gateway.output_tags import END_VALUE, VALUE, Piece


class Ambiguity(Protocol):
    """Collects the pieces from such a tag on."""

    pieces: list[Piece]

    def push(self, piece: Piece) -> bool | None:
        """Returns whether the tag was text, None if that is not certain yet."""
        ...


class AmbiguityInString:
    """A tag in a JSON string is text if the string ends as one in an object does: before `,`, `}`, `]` or `:`."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._escaped = False
        self._ended = False

    def push(self, piece: Piece) -> bool | None:
        self.pieces.append(piece)
        for char in piece.text:
            if self._ended:
                if not char.isspace():
                    return char in ",}]:"
            elif self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._ended = True
        return None


class AmbiguityInValue:
    """A tag in an XML value is text if the value's own end follows. A value within a value has its own end."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._depth = 1

    def push(self, piece: Piece) -> bool | None:
        self.pieces.append(piece)
        if piece.is_tag:
            self._depth += (piece.text == VALUE) - (piece.text == END_VALUE)
        return True if self._depth == 0 else None
