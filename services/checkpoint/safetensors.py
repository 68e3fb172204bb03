"""Reads the headers of safetensors files; their content is never trusted."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.checkpoint.errors import CheckpointError, WeightsUnreachable
from services.checkpoint.regular_files import open_regular, read_whole

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
MAX_HEADER_BYTES = 100 << 20
_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_MAX_DIMS = 8
_SHARD_NAME = re.compile(r"[\w.-]+\.safetensors", re.ASCII)


def bad_tensor(file: str, tensor: str, why: str) -> CheckpointError:
    return CheckpointError(f"{file}: {tensor if tensor.isprintable() else ascii(tensor)}: {why}")


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one tensor is stored: its file, dtype name, shape and absolute byte range."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def part(self, rows: range) -> Stored:
        """The location of some of the tensor's rows."""
        height = (self.end - self.begin) // self.shape[0]
        begin, end = (self.begin + row * height for row in (rows.start, rows.stop))
        return replace(self, shape=(len(rows), *self.shape[1:]), begin=begin, end=end)


@contextmanager
def reading(file: Path, tensor: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = WeightsUnreachable if error.errno == errno.EAGAIN else CheckpointError  # as slices say it
        raise kind(f"{file.name}: {tensor and tensor + ': '}{error.strerror or error}") from None


def _parsed(file: Path, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name}: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file.name}: is not a JSON object")
    return value


def json_object(file: Path) -> dict[str, Any]:
    with reading(file):
        text = read_whole(file)
    return _parsed(file, text)


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of the directory's safetensors files, checked against the index if any. Raises CheckpointError."""
    if (path / ADAPTER).exists():
        raise CheckpointError(f"{ADAPTER}: adapters are not served; merge it into the weights")
    if not (path / INDEX).exists():
        if not (path / SINGLE).exists():
            raise _no_weights(path)
        return dict(_header(path / SINGLE))
    weight_map = json_object(path / INDEX).get("weight_map")
    if isinstance(weight_map, dict) and (path / SINGLE).exists() and SINGLE not in weight_map.values():
        raise CheckpointError(
            f"{SINGLE}: lies beside {INDEX}, which does not name it: remove the one that is not meant"
        )
    if not isinstance(weight_map, dict) or not weight_map:
        raise bad_tensor(INDEX, "weight_map", "is not a map from tensor to file")
    stored: dict[str, Stored] = {}
    files: set[str] = set()
    for name, shard in sorted(weight_map.items()):
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise bad_tensor(INDEX, name, f"{shard!r} is not the name of a safetensors file beside the index")
        if shard not in files:
            files.add(shard)
            if not (path / shard).is_file():
                raise bad_tensor(shard, name, "the index puts this tensor there, and the file is missing")
            for stored_name, where in _header(path / shard):
                if stored_name in stored:
                    raise bad_tensor(shard, stored_name, f"is also in {stored[stored_name].file.name}")
                stored[stored_name] = where
        if name not in stored or stored[name].file.name != shard:
            raise bad_tensor(shard, name, "the index puts this tensor there, and the file does not hold it")
    return stored


def tensor_names(path: Path) -> list[str]:
    """The names of the directory's tensors, by its index if there is one; none where it has no weights.

    Raises CheckpointError.
    """
    if (path / INDEX).exists():
        weight_map = json_object(path / INDEX).get("weight_map")
        return [*weight_map] if isinstance(weight_map, dict) else []
    return [name for name, _ in _header(path / SINGLE)] if (path / SINGLE).exists() else []


def _no_weights(path: Path) -> CheckpointError:
    pickled = sorted(file.name for suffix in ("bin", "pt", "pth", "ckpt") for file in path.glob(f"*.{suffix}"))
    if pickled:
        return CheckpointError(f"{pickled[0]}: pickled weights are never read; convert them to safetensors")
    return CheckpointError(f"{INDEX}: missing, and there is no {SINGLE} either")


def _header(file: Path) -> list[tuple[str, Stored]]:
    with reading(file), open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError(
                f"{file.name}: truncated: its header of {length} bytes is not in {size} bytes of file"
            )
        text = stream.read(length)
    entries = _parsed(file, text)
    entries.pop("__metadata__", None)
    tensors = [(name, _entry(file, name, entry, 8 + length, size)) for name, entry in entries.items()]
    end = 8 + length
    for name, where in sorted(tensors, key=lambda item: (item[1].begin, item[1].end)):
        if where.begin != end:
            raise bad_tensor(file.name, name, f"starts at byte {where.begin}, the tensor before it ends at {end}")
        end = where.end
    if end != size:
        raise CheckpointError(f"{file.name}: has {size} bytes, its header describes {end}")
    return tensors


def _entry(file: Path, name: str, entry: Any, base: int, size: int) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise bad_tensor(file.name, name, "malformed header entry") from None
    numbers = [*shape, begin, end]
    if not isinstance(dtype, str) or len(shape) > _MAX_DIMS or not all([type(n) is int and n >= 0 for n in numbers]):  # noqa: C419 - faster, and there are ten thousands
        raise bad_tensor(file.name, name, "malformed header entry")
    if base + end > size:
        raise bad_tensor(file.name, name, f"truncated: ends at byte {base + end}, the file has {size}")
    if end < begin or (dtype in _ITEM_BYTES and math.prod(shape) * _ITEM_BYTES[dtype] != end - begin):
        raise bad_tensor(file.name, name, f"{list(shape)} of {dtype} is not {end - begin} bytes")
    return Stored(file, dtype, shape, base + begin, base + end)
