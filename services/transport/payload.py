"""The payload of a call: its hidden rows as one run of bytes, the same over every link.

In the model's dtype it is the rows' memory, row-major. In fp8 each block of 128 values of a row has its own scale: all
values come first (e4m3), then all scales (fp32), and value = stored * scale. A row is quantized by itself, so its
result does not depend on the other rows of the batch.
Legend: R rows, D hidden, S = D / 128 rounded up, N bytes.
"""

from __future__ import annotations

import zlib

import torch
from caracal_kernels import quantize
from torch import Tensor

FP8 = torch.float8_e4m3fn
BLOCK = 128


def dispatch_dtype_of(name: str, model: torch.dtype) -> torch.dtype:
    """The dtype of rows sent to experts, by CARACAL_DISPATCH_DTYPE: empty (the model's own) or fp8."""
    return FP8 if name == "fp8" else model


def payload_bytes(rows: int, hidden: int, dispatch_dtype: torch.dtype) -> int:
    """The payload size of `rows` rows."""
    return rows * sum(planes(hidden, dispatch_dtype))


def planes(hidden: int, dispatch_dtype: torch.dtype) -> list[int]:
    """Bytes of one row in each part of a payload: its values, and in fp8 its scales after all rows' values."""
    if dispatch_dtype == FP8:
        return [hidden, 4 * -(-hidden // BLOCK)]
    return [hidden * dispatch_dtype.itemsize]


def pack(x_RD: Tensor, dispatch_dtype: torch.dtype) -> Tensor:
    """The payload of `x_RD`, uint8 [N] on its device; a view of `x_RD` when that is contiguous and in that dtype."""
    if dispatch_dtype != FP8:
        return x_RD.contiguous().view(torch.uint8).view(-1)
    q_RD, scale_RS = quantize(x_RD)
    return torch.cat([q_RD.view(torch.uint8).view(-1), scale_RS.view(torch.uint8).view(-1)])


def unpack(payload_N: Tensor, rows: int, hidden: int, dispatch_dtype: torch.dtype, dtype: torch.dtype) -> Tensor:
    """The rows of a payload of `payload_bytes` bytes, [R, D] in `dtype`; a view of the payload unless that is fp8."""
    if dispatch_dtype != FP8:
        return payload_N.view(dispatch_dtype).view(rows, hidden)
    split = rows * hidden
    # The scales begin where the values end, which need not be a multiple of four.
    scale_RS = payload_N[split:].clone().view(torch.float32).view(rows, -(-hidden // BLOCK))
    return dequantize(payload_N[:split].view(FP8).view(rows, hidden), scale_RS, dtype)


def dequantize(q_RD: Tensor, scale_RS: Tensor, dtype: torch.dtype) -> Tensor:
    """Values times their block's scale, [R, D] in `dtype`, rounded once from the fp32 product."""
    hidden = q_RD.shape[1]
    scale_RD = scale_RS.repeat_interleave(BLOCK, dim=1)[:, :hidden]
    return (q_RD.to(torch.float32) * scale_RD).to(dtype)


def check_of(payload_N: Tensor) -> int:
    """The CRC-32 of a payload in host memory."""
    return zlib.crc32(payload_N.numpy().data)
