"""What a worker may do to its replies. Legend: A (row, expert) assignments, D hidden."""

from __future__ import annotations

from typing import Any, cast

import torch
from caracal_proto import expert_pb2, tensor_pb2
from caracal_proto.tensors import checksum
from support.expert_workers import Worker
from torch import Tensor

DTYPE = torch.bfloat16  # of the replies
Reply = expert_pb2.ExpertReply
DType = tensor_pb2.DType


def drop(reply: Reply) -> None:
    return None


def flip_a_bit(reply: Reply) -> Reply:
    if reply.over_p2p:
        reply.checksum ^= 1
        return reply
    data = bytearray(reply.y.data)
    data[len(data) // 2] ^= 1
    reply.y.data = bytes(data)
    return reply


def lose_a_row(reply: Reply) -> Reply:
    rows, hidden = reply.y.shape
    if reply.over_p2p:
        reply.y.shape[0] = rows - 1
        return reply
    reply.y.data = reply.y.data[: -hidden * DTYPE.itemsize]
    reply.y.shape[0] = rows - 1
    reply.checksum = checksum(reply.y.data)
    return reply


def lose_bytes(reply: Reply) -> Reply:
    if reply.over_p2p:
        reply.y.dtype = DType.UINT8
        return reply
    reply.y.data = reply.y.data[:-2]
    reply.checksum = checksum(reply.y.data)
    return reply


class _Nan:
    """Puts a NaN into each answer, never with the same bits twice, as no correct computation does."""

    __name__ = "nan"

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, y_AD: Tensor) -> Tensor:
        bad_AD = y_AD.clone()
        bad_AD.view(torch.int16)[0, 0] = 0x7FC0 + self.count % 32
        self.count += 1
        return bad_AD


nan = _Nan()


def inject(worker: Worker, fault: Any) -> None:
    """Applies a fault: `nan` to the computed rows, any other to the replies."""
    if fault is nan:
        worker.corrupt = nan
    else:
        worker.service.fault = fault


def unknown_status(reply: Reply) -> Reply:
    """Replies with a status that this caller does not know."""
    return Reply(call=reply.call, status=cast("Reply.Status.ValueType", 99), message="not now")


def late(reply: Reply) -> Reply:
    return Reply(call=reply.call, status=Reply.DEADLINE_EXCEEDED, message="too late")


def hang_up(reply: Reply) -> Reply:
    raise RuntimeError("the test's worker hangs up")


def damaged_call(reply: Reply) -> Reply:
    return Reply(call=reply.call, status=Reply.DAMAGED, message="the checksum of x is wrong")


def malformed_call(reply: Reply) -> Reply:
    return Reply(call=reply.call, status=Reply.INVALID, message="an expert outside 0..7")


_REJECTED = [unknown_status, late, damaged_call, malformed_call]
FAULTS: list[Any] = [drop, flip_a_bit, lose_a_row, lose_bytes, nan, hang_up, *_REJECTED]
