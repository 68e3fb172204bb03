"""The `tojson` filter of chat templates: JSON text that keeps the marks of what the template itself wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from services.router.requests.marked_text import OWN, MarkedText, concat, has_own, is_own, marks_of


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> MarkedText:
    """Returns what transformers' filter returns. Not jinja2's own filter, which escapes characters of HTML."""
    whole = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if not any(map(has_own, _strings(value, sort_keys))):
        return MarkedText(whole)
    parts: list[str] = []
    end = 0
    for text in _strings(value, sort_keys):
        # Between two strings of a JSON text there is no quote, unless `separators` has one or a key is a number.
        start, encoded = whole.find('"', end), _encoded(text, ensure_ascii)
        if not whole.startswith(encoded, start):
            return MarkedText(whole)
        parts += [whole[end:start], encoded]
        end = start + len(encoded)
    return concat([*parts, whole[end:]])


def _strings(value: Any, sort_keys: bool) -> Iterator[str]:
    """Yields every string of a value, in the order of its JSON text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in sorted(value.items()) if sort_keys else value.items():
            yield from _strings(key, sort_keys)
            yield from _strings(item, sort_keys)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item, sort_keys)


def _encoded(text: str, ensure_ascii: bool) -> MarkedText:
    whole = json.dumps(text, ensure_ascii=ensure_ascii)
    if is_own(text) or not has_own(text):
        return MarkedText(whole, OWN * len(whole) if has_own(text) else None)
    pieces = [json.dumps(character, ensure_ascii=ensure_ascii)[1:-1] for character in str(text)]
    marks = b"".join(bytes((mark,)) * len(piece) for piece, mark in zip(pieces, marks_of(text), strict=True))
    return MarkedText(whole, b"\0" + marks + b"\0")
