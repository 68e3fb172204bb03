"""A string that knows which of its characters the chat template itself wrote.

Only those may become control tokens. Marks travel with the characters through what templates do to strings; an
operation that is not known here gives a plain string, which has no marks: all of it counts as text of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

OWN = b"\x01"  # the mark of a character that the template wrote; any other character has \0

_CONVERSION = re.compile(r"%(?:\((?P<key>[^()]*)\))?(?P<layout>[#0\- +]*[\d*]*(?:\.[\d*]*)?[hlL]?)(?P<type>[a-zA-Z%])")


class MarkedText(str):
    """Text with one mark per character. `marks` None: none of it is the template's own.

    It has the value, the hash and the methods of its text, so that a template cannot tell it from a string.
    """

    _marks: bytes

    def __new__(cls, text: str = "", marks: bytes | None = None) -> MarkedText:
        self = super().__new__(cls, text)
        self._marks = bytes(len(self)) if marks is None else marks
        return self

    def __str__(self) -> MarkedText:
        return self  # str(x) keeps the marks

    def __add__(self, other: Any) -> MarkedText:
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented  # undefined values and Markup have rules of their own
        return MarkedText(str.__add__(self, other), self._marks + marks_of(other))

    def __radd__(self, other: str) -> MarkedText:
        if not isinstance(other, str):
            return NotImplemented
        return MarkedText(str.__add__(other, self), marks_of(other) + self._marks)

    def __mul__(self, times: SupportsIndex) -> MarkedText:
        return MarkedText(str.__mul__(self, times), self._marks * times)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> MarkedText:
        return _formatted(self, values)

    def __getitem__(self, place: SupportsIndex | slice) -> MarkedText:
        marks = self._marks[place]
        return MarkedText(str.__getitem__(self, place), marks if isinstance(marks, bytes) else bytes((marks,)))

    def __iter__(self) -> Iterator[str]:
        for character, mark in zip(str.__iter__(self), self._marks, strict=True):
            yield MarkedText(character, bytes((mark,)))

    def join(self, parts: Iterable[str], /) -> MarkedText:
        parts = list(parts)
        return MarkedText(str.join(self, parts), self._marks.join([marks_of(part) for part in parts]))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> MarkedText:
        if not old:  # `new` goes between all characters
            return MarkedText(str.replace(self, old, new, count))
        return marked(new).join(self.split(old, count))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(str.split(self, sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(str.rsplit(self, sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines, start = [], 0
        for whole, line in zip(str.splitlines(self, True), str.splitlines(self, keepends), strict=True):
            lines.append(self[start : start + len(line)])
            start += len(whole)
        return lines  # type: ignore[return-value]  # nobody changes the list

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._three(str.partition(self, sep))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._three(str.rpartition(self, sep))

    def strip(self, chars: str | None = None, /) -> MarkedText:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> MarkedText:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> MarkedText:
        return self[: len(str.rstrip(self, chars))]

    def removeprefix(self, prefix: str, /) -> MarkedText:
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str, /) -> MarkedText:
        return self[: len(str.removesuffix(self, suffix))]

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> MarkedText:
        text = str.ljust(self, width, fillchar)
        return self + marked(fillchar) * (len(text) - len(self))

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> MarkedText:
        text = str.rjust(self, width, fillchar)
        return marked(fillchar) * (len(text) - len(self)) + self

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> MarkedText:
        text = str.center(self, width, fillchar)
        left = len(text) - len(self)
        left = left // 2 + (left & int(width) & 1)  # CPython's place of the odd character
        return (marked(fillchar) * left + self).ljust(len(text), fillchar)

    def upper(self) -> MarkedText:
        return with_marks_of(self, str.upper(self))

    def lower(self) -> MarkedText:
        return with_marks_of(self, str.lower(self))

    def title(self) -> MarkedText:
        return with_marks_of(self, str.title(self))

    def capitalize(self) -> MarkedText:
        return with_marks_of(self, str.capitalize(self))

    def swapcase(self) -> MarkedText:
        return with_marks_of(self, str.swapcase(self))

    def casefold(self) -> MarkedText:
        return with_marks_of(self, str.casefold(self))

    def _found(self, parts: list[str], gap: int) -> list[str]:
        """Returns `parts`, which follow each other in this text, `gap` characters or white space apart."""
        found: list[str] = []
        start = 0
        for part in parts:
            start = self.find(part, start)
            found.append(self[start : start + len(part)])
            start += len(part) + gap
        return found

    def _three(self, parts: tuple[str, str, str]) -> tuple[str, str, str]:
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        return self[:first], self[first:second], self[second:]


def marks_of(text: str) -> bytes:
    """Returns one byte per character; no character of a plain string is the template's own."""
    return text._marks if isinstance(text, MarkedText) else bytes(len(text))


def marked(text: str) -> MarkedText:
    """Returns a string with its marks, none if it is a plain one."""
    return text if isinstance(text, MarkedText) else MarkedText(text)


def own_text(text: str) -> MarkedText:
    """Returns text that the template itself wrote, all of it."""
    return MarkedText(text, OWN * len(text))


def is_own(text: str) -> bool:
    """Whether the template itself wrote every character."""
    return 0 not in marks_of(text)


def has_own(text: str) -> bool:
    """Whether the template itself wrote any character."""
    return 1 in marks_of(text)


def ends_with_own(text: MarkedText, token: str) -> bool:
    """Whether the last thing in a text, but for white space, is `token`, and the template itself wrote it."""
    end = text.rstrip()
    return end.endswith(token) and is_own(end[len(end) - len(token) :])


def concat(parts: Iterable[str]) -> MarkedText:
    """Joins strings, with their marks."""
    return MarkedText().join(parts)


def with_marks_of(before: str, after: str) -> MarkedText:
    """Returns `after`, what an operation on single characters made of `before`.

    Changes of case never shorten a text, so at equal length every character kept its place.
    """
    if is_own(before):
        return own_text(after)
    return MarkedText(after, marks_of(before) if len(before) == len(after) else None)


def _formatted(layout: MarkedText, values: Any) -> MarkedText:
    """The % operator: literal parts keep their marks, and so does a text that `%s` puts in as it is."""
    whole = str.__mod__(layout, values)
    in_order = iter(values if isinstance(values, tuple) else (values,))
    parts: list[str] = []
    end = 0
    try:
        for found in _CONVERSION.finditer(layout):
            parts.append(layout[end : found.start()])
            end = found.end()
            if found["type"] == "%":
                parts.append(layout[end - 1 : end])
                continue
            value = next(in_order) if found["key"] is None else values[found["key"]]
            plain = found["type"] == "s" and not found["layout"]
            parts.append(str(value) if plain else str.__mod__(f"%{found['layout']}{found['type']}", (value,)))
    except (LookupError, TypeError, ValueError, StopIteration):
        return MarkedText(whole)
    # Python's own result stands: where the parts above are not its parts, the marks are given up.
    joined = concat([*parts, layout[end:]])
    return joined if str.__eq__(joined, whole) else MarkedText(whole)
