"""CRC-32 of bytes, zlib's: by carry-less products where kernels are compiled, with the same values elsewhere."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from functools import cache

from caracal_kernels.backend import is_compiled, loading_error

_POLYNOMIAL = 0xEDB88320  # reflected, as all of these
_ONE = 1 << 31


def crc32(data: memoryview | bytes, so_far: int = 0) -> int:
    """The checksum of contiguous bytes, going on from that of what came before (0 at the start)."""
    return _body()(data, so_far)


def joined_crc32(first: int, second: int, second_bytes: int) -> int:
    """The checksum of two parts, one after the other, from theirs and the length of the second."""
    return _product(_power(8 * second_bytes), first) ^ second


@cache
def _body() -> Callable[[memoryview | bytes, int], int]:
    body: Callable[[memoryview | bytes, int], int] = zlib.crc32
    if loading_error() is None and is_compiled():
        body = importlib.import_module("caracal_kernels._cpu").crc32
    return body


def _product(a: int, b: int) -> int:
    """The product of two polynomials, modulo CRC-32's."""
    found = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            found ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return found


@cache
def _square(times: int) -> int:
    """x, squared so often."""
    return _ONE >> 1 if times == 0 else _product(_square(times - 1), _square(times - 1))


def _power(exponent: int) -> int:
    """x to that power."""
    found = _ONE
    for place in range(exponent.bit_length()):
        if exponent >> place & 1:
            found = _product(_square(place), found)
    return found
