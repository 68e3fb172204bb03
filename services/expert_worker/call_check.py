"""Checks a call before anything is allocated for it.

Legend: R rows, A (row, expert) assignments, D hidden, N bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from caracal_proto import expert_pb2
from caracal_proto.tensors import dtype_name, view
from torch import Tensor

from services.expert_worker.batcher import Job
from services.transport.limits import MAX_ROWS
from services.transport.payload import check_of, payload_bytes, unpack

_INT32, _UINT32 = np.dtype("<i4"), np.dtype("<u4")


class BadCall(ValueError):
    """The call's fields contradict each other, or the model."""


class DamagedCall(ValueError):
    """The call's payload is not what its checksum was made of."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What calls must fit: the model's sizes, the dtype to compute in, and the dtype in which rows are sent.

    `choices`: FFN experts that a row may choose.
    """

    layers: int
    experts: int
    choices: int
    hidden: int
    dtype: torch.dtype
    dispatch_dtype: torch.dtype

    def reply_bytes(self, call: expert_pb2.ExpertCall) -> int:
        """Bytes of the outputs that a call asks for, if it is a valid one."""
        return min(len(call.row) // 4, MAX_ROWS * self.choices) * self.hidden * self.dtype.itemsize


def parse(call: expert_pb2.ExpertCall, payload_N: Tensor, expected: Expected, now: float) -> Job:
    """Turns a call into a job whose tensors are views of the call's bytes if possible. Raises BadCall, DamagedCall."""
    x, rows, hidden, dispatch_dtype = call.x, call.rows, expected.hidden, expected.dispatch_dtype
    if call.layer >= expected.layers:
        raise BadCall(f"layer {call.layer} of a model with {expected.layers}")
    if rows > MAX_ROWS:
        raise BadCall(f"{rows} rows, a call has at most {MAX_ROWS}")
    if x.dtype != dtype_name(dispatch_dtype):
        raise BadCall(f"x is dtype {x.dtype}, this worker takes rows in {dispatch_dtype}")
    if tuple(x.shape) != (rows, hidden):
        raise BadCall(f"x is {list(x.shape)}, not [{rows}, {hidden}]")
    if len(payload_N) != payload_bytes(rows, hidden, dispatch_dtype):
        raise BadCall(f"x carries {len(payload_N)} bytes for {list(x.shape)}")
    on_device = payload_N.device.type != "cpu"
    if call.unchecked and not on_device:
        raise BadCall("x has no checksum, and did not come by NCCL")
    if not call.unchecked and check_of(payload_N.cpu()) != call.checksum:
        raise DamagedCall("the checksum of x is wrong: the rows were damaged on their way")
    row_A, expert_A = _assignments(call.row, call.expert, rows, expected)
    deadline = now + call.deadline_ms / 1000 if call.deadline_ms else float("inf")
    return Job(call.layer, unpack(payload_N, rows, hidden, dispatch_dtype, expected.dtype), row_A, expert_A, deadline)


def _assignments(row: bytes, expert: bytes, rows: int, expected: Expected) -> tuple[Tensor, Tensor]:
    """(row_A, expert_A), int32, checked to be in range and to ascend strictly by (expert, row). Raises BadCall."""
    count, experts = len(row) // 4, expected.experts
    if not 0 < len(row) == len(expert) == 4 * count or count > rows * expected.choices:
        raise BadCall(
            f"{len(row)} bytes of row indices, {len(expert)} of experts, for {rows} rows that choose"
            f" {expected.choices} of {experts} experts each"
        )
    # Read as unsigned, a negative number is too large.
    if int(np.frombuffer(row, _UINT32).max()) >= rows:
        raise BadCall(f"a row outside 0..{rows - 1}")
    row_A, expert_A = view(row, (count,), torch.int32), view(expert, (count,), torch.int32)
    rank_A = np.frombuffer(expert, _INT32) * np.int64(rows) + np.frombuffer(row, _INT32)
    if not bool((rank_A[1:] > rank_A[:-1]).all()):
        raise BadCall("assignments do not ascend by (expert, row)")
    if rank_A[0] < 0 or rank_A[-1] >= rows * experts:
        raise BadCall(f"an expert outside 0..{experts - 1}")
    return row_A, expert_A
