"""A checkpoint of random values that are generated when read, so that no disk needs the 40 GB of a real layer."""

from __future__ import annotations

import zlib
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.checkpoint.fp8 import scale_shape
from services.checkpoint.reader import HOST, Checkpoint
from services.checkpoint.staging import Staging
from services.checkpoint.tensors import attention_tensors, expert_tensors

FP8_SCALE = 0.02  # for values of about 1, so that products are of about 1 too


class RandomCheckpoint(Checkpoint):
    """Every process gets the same values of a tensor on the same kind of device.

    With `fp8_experts` the experts' matrices are in block-scaled fp8.
    """

    def __init__(self, raw: dict[str, Any], fp8_experts: bool = False) -> None:
        config = ModelConfig.from_dict(raw)
        super().__init__(Path("random"), config, {}, no_drafts="a random checkpoint has no draft")
        self._shapes = dict(chain(attention_tensors(config), expert_tensors(config)))
        self._fp8_experts = fp8_experts

    def tensor(self, name: str, dtype: torch.dtype, to: Staging = HOST, rows: range | None = None) -> Tensor:
        shape = self._shapes[name]
        values = torch.randn(shape, dtype=dtype, device=to.device, generator=_generator(name, to))
        if name.endswith("e_score_correction_bias"):
            values *= 1e-3
        elif len(shape) == 1:
            values = 1 + values * 0.1
        else:
            values *= shape[1] ** -0.5
        return values if rows is None else values[rows.start : rows.stop]

    def checksum(self, name: str, rows: range | None = None) -> int:
        """Stands for that of bytes, of which none are read."""
        return zlib.crc32(name.encode())

    def is_fp8(self, name: str) -> bool:
        return self._fp8_experts and ".mlp.experts." in name

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def fp8(self, name: str, to: Staging = HOST, rows: range | None = None) -> tuple[Tensor, Tensor] | None:
        if not self.is_fp8(name):
            return None
        assert rows is None, "experts are read whole"
        shape, generator = self._shapes[name], _generator(name, to)
        values = torch.randn(shape, dtype=torch.bfloat16, device=to.device, generator=generator)
        scale = torch.rand(scale_shape(shape), device=to.device, generator=generator).add_(0.5).mul_(FP8_SCALE)
        return values.to(torch.float8_e4m3fn), scale


def _generator(name: str, to: Staging) -> torch.Generator:
    return torch.Generator(to.device).manual_seed(zlib.crc32(name.encode()))
