"""Damages checkpoint directories, for the tests of the reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from services.checkpoint.safetensors import INDEX


def shard_of(path: Path, tensor: str) -> Path:
    """Returns the file that the index names for a tensor."""
    file: str = json.loads((path / INDEX).read_text())["weight_map"][tensor]
    return path / file


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies `change` to the parsed file in place and writes it back."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def edit_tensor(path: Path, tensor: str, change: Callable[[Tensor], Tensor]) -> None:
    """Replaces one tensor in its shard."""
    shard = shard_of(path, tensor)
    weights = load_file(shard)
    weights[tensor] = change(weights[tensor]).contiguous()
    save_file(weights, shard)


def edit_header(shard: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a safetensors header and leaves the bytes behind it as they are."""
    raw = shard.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
