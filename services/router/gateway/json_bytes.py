"""JSON of values that a client or a model may have made."""

from __future__ import annotations

import json
from typing import Any

import orjson


def json_bytes(value: Any) -> bytes:
    """Returns a value as JSON. Integers of more than 64 bits, which orjson does not take, are written whole."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
