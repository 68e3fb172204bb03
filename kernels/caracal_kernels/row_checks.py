"""Checksums of rows of logits, and whether the rows are finite. On the host only.

Legend: B rows, V columns.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from caracal_kernels.registry import define_op


def row_checks_reference(rows_BV: Tensor) -> tuple[Tensor, Tensor]:
    """(CRC-32 of each fp32 row's bytes, [B] int64; whether it has no NaN and no infinity, [B] bool)."""
    checksums = [zlib.crc32(row_V.data) for row_V in rows_BV.numpy()]
    return torch.tensor(checksums, dtype=torch.int64), torch.isfinite(rows_BV).all(-1)


def _fake(rows_BV: Tensor) -> tuple[Tensor, Tensor]:
    return rows_BV.new_empty(rows_BV.shape[:1], dtype=torch.int64), rows_BV.new_empty(
        rows_BV.shape[:1], dtype=torch.bool
    )


row_checks = define_op(row_checks_reference, fake=_fake)
