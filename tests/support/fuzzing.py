"""Random and damaged input: protobuf messages by hypothesis, and bytes by a seeded generator.

FUZZ_TIMES=N tries N times as much as a plain run of the tests, with other numbers each time; FUZZ_SEED=N repeats one.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (0 if TIMES == 1 else random.randrange(1, 1 << 30))
DEPTH = 3  # of messages in messages
ODD = (
    b"\0",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\r\n\r\n",
    b"\n" * 9,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"{" * 70,
    b"\x80" * 12,
)


def profile(examples: int) -> settings:
    """Settings of hypothesis: the same examples each time, but for FUZZ_TIMES."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def messages(descriptor: Any, depth: int = DEPTH) -> st.SearchStrategy[Message]:
    """Messages of one type, any of whose fields may be set to anything that the type allows."""
    found = {field.name: _values(field, depth) for field in descriptor.fields if depth or field.message_type is None}
    return st.fixed_dictionaries({}, optional=found).map(lambda values: GetMessageClass(descriptor)(**values))


def changed(valid: Message) -> st.SearchStrategy[Message]:
    """A valid message, with some of its fields replaced by random ones."""

    def merge(other: Message) -> Message:
        result = type(valid)()
        result.CopyFrom(valid)
        for field, _ in other.ListFields():
            result.ClearField(field.name)
        result.MergeFrom(other)
        return result

    return messages(valid.DESCRIPTOR).map(merge)


def names_of(descriptor: Any, depth: int = DEPTH + 1) -> set[str]:
    """The names of a message's fields, and of those in them."""
    found = {field.name for field in descriptor.fields}
    for field in descriptor.fields if depth else ():
        if field.message_type is not None:
            found |= names_of(field.message_type, depth - 1)
    return found


def mutated(rng: random.Random, samples: Sequence[bytes]) -> bytes:
    """One of the samples with up to four changes: bits, runs of bytes, numbers, ends."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(1, 16))
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * rng.randint(1, 50)
            case 3:
                data[at:at] = rng.choice(ODD)
            case 4:
                data[at:end] = rng.randbytes(end - at)
            case 5:
                data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 1 << 31, (1 << 32) - 1)))
            case _:
                other = rng.choice(samples)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
    return bytes(data)


def http2_call(path: str, metadata: Sequence[tuple[str, str | bytes]], message: bytes) -> bytes:
    """What a gRPC client sends for one call over a connection of its own."""
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    block = b"".join(
        b"\0" + _prefixed(name) + _prefixed(value)
        for name, value in (*headers, ("content-type", "application/grpc"), *metadata)
    )
    body = b"\0" + struct.pack(">I", len(message)) + message
    frames = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, body)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _prefixed(text: str | bytes) -> bytes:
    """A string as HPACK writes it, not compressed."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, size = len(data) - 127, b"\x7f"
    while rest >= 128:
        size, rest = size + bytes((rest % 128 + 128,)), rest // 128
    return size + bytes((rest,)) + data


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        key, value = (_one(kind.fields_by_name[name], depth - 1) for name in ("key", "value"))
        return st.dictionaries(key, value, max_size=4)
    return st.lists(_one(field, depth), max_size=4) if field.is_repeated else _one(field, depth)


def _one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    bounds = {
        FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
        FieldDescriptor.CPPTYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
        FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
        FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    }
    if field.cpp_type in bounds:
        low, high = bounds[field.cpp_type]
        return st.sampled_from((0, 1, 2, low, high)) | st.integers(low, high)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type, depth - 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=64)
        return st.sampled_from(("", "\0", "127.0.0.1:1", "[]", "a" * 5000)) | st.text(max_size=20)
    return st.floats(width=32)
