"""A stored response as bytes: compressed JSON. What is read is checked for its form, whoever wrote it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from services.router.gateway.json_bytes import json_bytes

MAX_BYTES = 16 << 20  # of a record's JSON: a body has 4 MiB at most, its answer no more than a context
LEVEL = 1


class BadRecord(ValueError):
    """What was read is no record."""


@dataclass(frozen=True)
class Record:
    """A response with the items that its request added to the conversation.

    `before`: ids of the responses that it continues, oldest first. `owner`: the name of the API key that it belongs to.
    """

    response: dict[str, Any]
    items: list[dict[str, Any]]
    before: list[str]
    owner: str = ""

    def to_bytes(self) -> bytes:
        """Raises BadRecord for more than can be read again."""
        own = {"owner": self.owner} if self.owner else {}
        data = json_bytes({"response": self.response, "items": self.items, "before": self.before, **own})
        if len(data) > MAX_BYTES:
            raise BadRecord(f"a response of {len(data)} bytes; at most {MAX_BYTES} are stored")
        return zlib.compress(data, LEVEL)

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Raises BadRecord."""
        try:
            inflate = zlib.decompressobj()
            value = orjson.loads(inflate.decompress(data, MAX_BYTES))
            record = cls(value["response"], value["items"], value["before"], value.get("owner", ""))
        except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f"{type(error).__name__}: {error}") from None
        items = record.items if isinstance(record.items, list) else [None]
        before = record.before if isinstance(record.before, list) else [None]
        if not isinstance(record.response, dict) or not isinstance(record.response.get("output"), list):
            raise BadRecord("its response is no object with an output")
        if not isinstance(record.owner, str):
            raise BadRecord("its owner is no text")
        if not all(isinstance(item, dict) for item in items) or not all(isinstance(one, str) for one in before):
            raise BadRecord("its items are no objects, or the ids before it no texts")
        return record
