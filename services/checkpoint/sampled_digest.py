"""The digest of a checkpoint by its config and the ends of its tensors: cheap for terabytes."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from io import FileIO
from pathlib import Path

from caracal_kernels import crc32

from services.checkpoint.config import ModelConfig
from services.checkpoint.safetensors import Stored, reading
from services.checkpoint.tensors import DRAFT

_SAMPLE_BYTES = 4096
_NOT_NUMERIC = {"bos_token_id", "eos_token_id", "torch_dtype"}


def sample(where: Stored) -> bytes:
    """The first and the last bytes of a tensor."""
    with reading(where.file), where.file.open("rb", buffering=0) as stream:
        return _sample_of(stream, where)


def sampled_ranges(where: Stored) -> tuple[tuple[int, int], tuple[int, int]]:
    """What `sample` reads of a tensor's file, as [begin, end); of a small tensor both may be the same."""
    first, last = min(where.end, where.begin + _SAMPLE_BYTES), max(where.begin, where.end - _SAMPLE_BYTES)
    return (where.begin, first), (last, where.end)


def _sample_of(stream: FileIO, where: Stored) -> bytes:
    size, number = where.end - where.begin, stream.fileno()
    if size <= 2 * _SAMPLE_BYTES:  # one read serves both
        whole = os.pread(number, size, where.begin)
        return whole[:_SAMPLE_BYTES] + whole[max(0, size - _SAMPLE_BYTES) :]
    return b"".join(os.pread(number, _SAMPLE_BYTES, begin) for begin in (where.begin, where.end - _SAMPLE_BYTES))


def digest_of(config: ModelConfig, stored: dict[str, Stored]) -> tuple[str, Sequence[int]]:
    """SHA-256 over numeric config fields, and each tensor's name, dtype, shape, first and last 4 KiB.

    The tensors of drafts are left out: they decide no token. It is cheap for terabytes and independent of how tensors
    are spread over files, but misses differences in the middle of a tensor: those show in checksums of what is read.

    Returns also the CRC-32 of each sample.
    """
    numeric = [(field.name, getattr(config, field.name)) for field in fields(config) if field.name not in _NOT_NUMERIC]
    digest, samples = hashlib.sha256(repr(numeric).encode()), array("I")
    with ExitStack() as stack:
        streams: dict[Path, FileIO] = {}
        for name in sampled(stored):
            where = stored[name]
            with reading(where.file, name):
                if where.file not in streams:
                    streams[where.file] = stack.enter_context(where.file.open("rb", buffering=0))
                ends = _sample_of(streams[where.file], where)
            digest.update(ascii((name, where.dtype, where.shape)).encode() + ends)
            samples.append(crc32(ends))
    return digest.hexdigest(), samples


def sampled(stored: Iterable[str]) -> list[str]:
    return sorted(name for name in stored if not name.startswith(DRAFT))
