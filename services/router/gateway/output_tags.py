"""LongCat's tags, and how they are found in what the model writes.

A tag that the tokenizer has as a token is found by that token alone: text that reads like it is text. Any other tag is
found by its text, wherever the text deltas are cut.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from services.router.requests.stops import held_length
from services.router.requests.text import Tag

THINK, END_THINK = "<longcat_think>", "</longcat_think>"
TOOL, END_TOOL = "<longcat_tool_call>", "</longcat_tool_call>"
KEY, END_KEY = "<longcat_arg_key>", "</longcat_arg_key>"
VALUE, END_VALUE = "<longcat_arg_value>", "</longcat_arg_value>"
REASONING_TAGS = (THINK, END_THINK)
TOOL_TAGS = (TOOL, END_TOOL, KEY, END_KEY, VALUE, END_VALUE)
TAGS = (*REASONING_TAGS, *TOOL_TAGS)
TAG_BEGINS = ("<longcat", "</longcat")  # no text that is cut there is anything but the beginning of a tag


class Piece(NamedTuple):
    """A tag, or text between tags."""

    text: str
    is_tag: bool = False


class TagReader:
    """Takes text apart into tags and what is between them. `by_text`: the tags that have no token."""

    def __init__(self, by_text: Collection[str]) -> None:
        self._by_text = tuple(by_text)
        self._pattern = re.compile("|".join(map(re.escape, self._by_text))) if self._by_text else None
        self.held = ""  # may become a tag

    def push(self, text: str, tags: Sequence[Tag] = ()) -> list[Piece]:
        """Returns the pieces that are certain. `tags`: those of the text that came as tokens."""
        pieces: list[Piece] = []
        done = 0
        for tag in tags:
            pieces += self._between(text[done : tag.start])
            pieces += [*self.finish(), Piece(tag.text, True)]
            done = tag.start + len(tag.text)
        return pieces + self._between(text[done:])

    def finish(self) -> list[Piece]:
        """Returns what was held back, now that no text will follow."""
        held, self.held = self.held, ""
        return [Piece(held)] if held else []

    def _between(self, text: str) -> list[Piece]:
        if self._pattern is None:
            return [Piece(text)] if text else []
        text = self.held + text
        pieces: list[Piece] = []
        done = 0
        for found in self._pattern.finditer(text):
            pieces += [Piece(text[done : found.start()]), Piece(found[0], True)]
            done = found.end()
        rest = text[done:]
        held = held_length(rest, self._by_text) if "<" in rest else 0
        self.held = rest[len(rest) - held :]
        pieces.append(Piece(rest[: len(rest) - held]))
        return [piece for piece in pieces if piece.text]
