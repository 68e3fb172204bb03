"""How many values a JSON text has, before it is parsed: parsers hold up the whole process while they make objects."""

from __future__ import annotations

import re

OPEN, CLOSE = b"{[", b"}]"
TOKEN = re.compile(rb'"[^"]*+"?|[{}\[\],]')  # of a text without escapes


def most_values(data: bytes) -> int:
    """Returns a count of values that a text cannot exceed: separators within strings count, too."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") + 1


def field_beyond(data: bytes, most: int) -> str | None:
    """Returns the field of the outermost object in which value number `most` + 1 lies; None if there are no more.

    The field is empty where the text is no object. Of what is not JSON no more is looked at than of JSON.
    """
    found, strings, depth, field, names = 1, 0, 0, b"", False
    for token in TOKEN.finditer(data.replace(rb"\\", b"").replace(rb"\"", b"")):
        first = token[0][:1]
        if first == b'"':
            strings += 1
            if names and depth == 1:
                field, names = token[0], False
        elif first in CLOSE:
            depth -= 1
        else:
            found += 1
            if first in OPEN:
                depth += 1
            names = depth == 1 and first != b"["
        # The field of a value comes after the comma that counts it, and a value has one name at most.
        if found > most + names or strings > 2 * most:
            return field[1:-1].decode("utf-8", "replace")
    return None
