"""Streaming-sparse attention, as LongCat-Flash-Thinking-ZigZag has it in some attention sublayers. Pure.

Source: docs/longcat-flash.md, streaming-sparse attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.checkpoint.errors import bad_field, shown

BLOCK = 128  # positions of a block; blocks begin at absolute multiples
FIELD = "streaming_sparse_attention"
_KNOWN = {"sink_size", "recent_size", "sparsity", "layer_type"}  # `sparsity` only counts the characters of layer_type


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingAttention:
    """A sparse sublayer's row at position p reads the first blocks, and the last ones up to its own.

    `sparse`: one flag for each attention sublayer, two per layer.
    """

    sink_blocks: int
    recent_blocks: int
    sparse: tuple[bool, ...]


def streaming_of(raw: Mapping[str, Any], sublayers: int) -> StreamingAttention | None:
    """Reads the object of a parsed config.json; None where there is none. Raises CheckpointError naming the field."""
    given = raw.get(FIELD)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise bad_field(FIELD, f"{shown(given)} is not an object")
    unknown = sorted(key for key in given if key not in _KNOWN and given[key] is not None)
    if unknown:
        raise bad_field(f"{FIELD}.{unknown[0]}", "is not served")
    kinds = given.get("layer_type")
    if not isinstance(kinds, str) or len(kinds) != sublayers or set(kinds) - {"0", "1"}:
        raise bad_field(f"{FIELD}.layer_type", f"{shown(kinds)} is not a string of {sublayers} characters 0 and 1")
    return StreamingAttention(
        sink_blocks=_blocks(given, "sink_size"),
        recent_blocks=_blocks(given, "recent_size"),
        sparse=tuple(kind == "1" for kind in kinds),
    )


def _blocks(given: Mapping[str, Any], key: str) -> int:
    size = given.get(key)
    if type(size) is not int or not 0 < size < 2**31:
        raise bad_field(f"{FIELD}.{key}", f"{shown(size)} is not a whole number of at least 1")
    return -(-size // BLOCK)
