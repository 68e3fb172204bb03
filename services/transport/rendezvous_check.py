"""Checks the connection data that gloo and NCCL read from the other side, since neither they nor torch check it.

Gloo of torch 2.13 parses its peer's blob by the lengths written in it and reads wherever they lead. The blob, little
endian: u64 length of the host name, the name; u64 length of an address, the address (a sockaddr and a number); one
i64 for each rank. Between two sides of one build only the name may differ in length. NCCL's is an id of 128 bytes.
"""

from __future__ import annotations

import struct

MAX_NAME_BYTES = 255
NCCL_ID_BYTES = 128
RANKS = 2


def invalid_reason(theirs: bytes, ours: bytes | None) -> str:
    """Why gloo or NCCL must not read `theirs`; empty if they may. `ours` is this side's gloo blob, None with NCCL."""
    if ours is None:
        return "" if len(theirs) == NCCL_ID_BYTES else f"{len(theirs)} bytes are no id of NCCL"
    try:
        their_address, our_address = _address(theirs), _address(ours)
    except (ValueError, struct.error) as error:
        return f"{len(theirs)} bytes are no address of gloo: {error}"
    if len(their_address) != len(our_address) or their_address[:2] != our_address[:2]:
        return "the other side's address is of another kind"
    return ""


def _address(blob: bytes) -> bytes:
    """The address in a gloo blob. Raises ValueError or struct.error when the blob's lengths do not add up."""
    (name,) = struct.unpack_from("<Q", blob)
    if name > MAX_NAME_BYTES:
        raise ValueError("the name is too long")
    (size,) = struct.unpack_from("<Q", blob, 8 + name)
    if 16 + name + size + 8 * RANKS != len(blob):
        raise ValueError("its lengths do not add up")
    return blob[16 + name :][:size]
