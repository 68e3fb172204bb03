"""What one side's groups read of the other's: its form is checked first, since neither gloo nor torch checks it.

Gloo of torch 2.13 takes its peer's blob apart by the lengths written in it and reads where they lead. The blob, little
endian: u64 length of the host's name, the name; u64 length of an address, the address (a sockaddr and a number); one
i64 for each rank. Only the name may differ in length between two sides of one build. NCCL's is an id of 128 bytes.
"""

from __future__ import annotations

import struct

LONGEST_NAME = 255
NCCL_ID_BYTES = 128
RANKS = 2


def refusal(theirs: bytes, ours: bytes | None) -> str:
    """Why gloo or NCCL must not see `theirs`; empty if they may. `ours` is what this side's gloo has set, if it did."""
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
    """The address in a blob whose lengths add up. Raises ValueError, struct.error."""
    (name,) = struct.unpack_from("<Q", blob)
    if name > LONGEST_NAME:
        raise ValueError("the name is too long")
    (size,) = struct.unpack_from("<Q", blob, 8 + name)
    if 16 + name + size + 8 * RANKS != len(blob):
        raise ValueError("its lengths do not add up")
    return blob[16 + name :][:size]
