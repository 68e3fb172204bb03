"""Checks a call before anything is allocated for it.

Legend: R rows, P (row, expert) pairs, D hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from caracal_proto import expert_pb2
from caracal_proto.tensors import checksum, dtype_name, view
from torch import Tensor

from services.expert_worker.batcher import Job

_INT32 = np.dtype("<i4")


class BadCall(ValueError):
    """A call that contradicts itself, the model, or its checksum."""


def parse(call: expert_pb2.ExpertCall, layers: int, experts: int, hidden: int, dtype: torch.dtype, now: float) -> Job:
    """The call's rows and pairs, as views of its bytes. Raises BadCall."""
    _require(call.layer < layers, f"layer {call.layer} of a model with {layers}")
    _require(call.x.dtype == dtype_name(dtype), f"x is dtype {call.x.dtype}, this worker computes in {dtype}")
    _require(list(call.x.shape) == [call.rows, hidden], f"x is {list(call.x.shape)}, not [{call.rows}, {hidden}]")
    data = call.x.data
    _require(len(data) == call.rows * hidden * dtype.itemsize, f"x carries {len(data)} bytes for {list(call.x.shape)}")
    _require(checksum(data) == call.checksum, "the checksum of x is wrong: the rows were damaged on their way")
    row_P, expert_P = _pairs(call, experts)
    deadline = now + call.deadline_ms / 1000 if call.deadline_ms else float("inf")
    return Job(call.layer, view(data, (call.rows, hidden), dtype), row_P, expert_P, deadline)


def _pairs(call: expert_pb2.ExpertCall, experts: int) -> tuple[Tensor, Tensor]:
    """int32 [P] twice: in range, strictly ascending by (expert, row), every row wanted by someone."""
    size = len(call.row)
    _require(0 < size == len(call.expert) and size % 4 == 0, f"{size} bytes of rows, {len(call.expert)} of experts")
    _require(size // 4 <= call.rows * experts, f"{size // 4} pairs of {call.rows} rows and {experts} experts")
    row_P, expert_P = np.frombuffer(call.row, _INT32), np.frombuffer(call.expert, _INT32)
    _require(row_P.min() >= 0 and row_P.max() < call.rows, f"a row outside 0..{call.rows - 1}")
    _require(expert_P.min() >= 0 and expert_P.max() < experts, f"an expert outside 0..{experts - 1}")
    rank_P = expert_P.astype(np.int64) * call.rows + row_P
    _require(bool((rank_P[1:] > rank_P[:-1]).all()), "pairs do not ascend by (expert, row)")
    shape = (size // 4,)
    return view(call.row, shape, torch.int32), view(call.expert, shape, torch.int32)


def _require(holds: object, message: str) -> None:
    if not holds:
        raise BadCall(message)
