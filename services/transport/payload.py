"""A call's rows as one run of bytes, the same over every link.

In the model's dtype they are the rows as they lie. In fp8 each run of 128 values of a row has a scale of its own:
first the values, e4m3, then the scales, fp32; value = stored * scale. Both ways are functions of one row alone, so fp8
changes what an answer is, but not on whom it depends. Legend: R rows, D hidden, S = D / 128 rounded up, N bytes.
"""

from __future__ import annotations

import zlib

import torch
from caracal_kernels import quantize
from torch import Tensor

FP8 = torch.float8_e4m3fn
BLOCK = 128
MAX_ROWS = 8192  # of a call over a pair: no worker makes room for more


def wire_dtype(name: str, model: torch.dtype) -> torch.dtype:
    """The dtype in which rows go out under CARACAL_DISPATCH_DTYPE: empty (the model's own) or fp8."""
    return FP8 if name == "fp8" else model


def payload_bytes(rows: int, hidden: int, wire: torch.dtype) -> int:
    """Bytes of `rows` rows."""
    return rows * (hidden + 4 * -(-hidden // BLOCK) if wire == FP8 else hidden * wire.itemsize)


def pack(x_RD: Tensor, wire: torch.dtype) -> Tensor:
    """uint8 [N], on the rows' device; a view of `x_RD` when it is contiguous and in `wire`."""
    if wire != FP8:
        return x_RD.contiguous().view(torch.uint8).view(-1)
    q_RD, scale_RS = quantize(x_RD)
    return torch.cat([q_RD.view(torch.uint8).view(-1), scale_RS.view(torch.uint8).view(-1)])


def unpack(payload_N: Tensor, rows: int, hidden: int, wire: torch.dtype, dtype: torch.dtype) -> Tensor:
    """[R, D] in `dtype`: a view of the payload unless it is fp8. `payload_N` has `payload_bytes` bytes."""
    if wire != FP8:
        return payload_N.view(wire).view(rows, hidden)
    split = rows * hidden
    # The scales lie where the values end, which need not be a multiple of four.
    scale_RS = payload_N[split:].clone().view(torch.float32).view(rows, -(-hidden // BLOCK))
    return dequantize(payload_N[:split].view(FP8).view(rows, hidden), scale_RS, dtype)


def dequantize(q_RD: Tensor, scale_RS: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, D] in `dtype`, rounded once from the fp32 product."""
    hidden = q_RD.shape[1]
    scale_RD = scale_RS.repeat_interleave(BLOCK, dim=1)[:, :hidden]
    return (q_RD.to(torch.float32) * scale_RD).to(dtype)


def check_of(payload_N: Tensor) -> int:
    """CRC-32 of a payload in host memory."""
    return zlib.crc32(payload_N.numpy().data)
