"""Encodes a step as bytes, which rank 0 sends to the followers before each forward pass.

Of the page table only the rows and pages that the step reads are sent; the cache itself is the same on every rank.
A step of the draft comes with the places of its rows among those of the pass before it, which every rank has.
Legend: T tokens, N ids of the longest n-gram, S rows of the page table, X pages of a row, B sampled rows, M pages
to copy, R pages of E bytes that another worker has sent.
"""

from __future__ import annotations

import struct

import numpy as np
import torch
from torch import Tensor

from services.attention_worker.model.step import Step

_HEAD = struct.Struct("<10q")  # number, T, B, N, S, X, M, R, E, whether there are places of rows


def pack(step: Step, page_size: int, rows_T: Tensor | None = None) -> bytes:
    """Encodes a step, with its page table reduced to what it reads. `rows_T`: of a step of the draft."""
    rows_S, seq_T = np.unique(step.seq_T.numpy(), return_inverse=True)
    pages = int(step.positions_T.max()) // page_size + 1 if len(seq_T) else 0  # a step may have copies alone
    table_SX = step.page_table_SX.numpy()[rows_S, :pages]
    sizes = len(seq_T), len(step.sample_rows_B), step.context_TN.shape[1], *table_SX.shape, len(step.moves_M3)
    sizes = *sizes, *step.received_RB.shape
    head = _HEAD.pack(step.number, *sizes, rows_T is not None)
    places = () if rows_T is None else (rows_T.numpy(),)
    long = (step.ids_T.numpy(), step.sample_rows_B.numpy(), step.context_TN.numpy(), *places)
    per_token = (step.positions_T.numpy(), seq_T.astype(np.int32), step.slot_mapping_T.numpy())
    short = (*per_token, table_SX, step.moves_M3.numpy())
    return b"".join([head, *(array.tobytes() for array in (*long, *short, step.received_RB.numpy()))])


def unpack(frame: bytearray) -> tuple[Step, Tensor | None]:
    """Decodes a frame to the step, and the places of a draft's rows; the tensors are views of it."""
    number, tokens, samples, context, rows, pages, moves, received, width, drafts = _HEAD.unpack_from(frame)
    at = _HEAD.size

    def take(count: int, dtype: torch.dtype) -> Tensor:
        nonlocal at
        if not count:
            return torch.empty(0, dtype=dtype)
        found = torch.frombuffer(frame, dtype=dtype, count=count, offset=at)
        at += found.nbytes
        return found

    ids_T, sample_rows_B = take(tokens, torch.int64), take(samples, torch.int64)
    context_TN = take(tokens * context, torch.int64).view(tokens, context)
    rows_T = take(tokens, torch.int64) if drafts else None
    positions_T, seq_T, slot_mapping_T = (take(tokens, torch.int32) for _ in range(3))
    step = Step(
        number=number,
        ids_T=ids_T,
        positions_T=positions_T,
        seq_T=seq_T,
        slot_mapping_T=slot_mapping_T,
        page_table_SX=take(rows * pages, torch.int32).view(rows, pages),
        sample_rows_B=sample_rows_B,
        context_TN=context_TN,
        moves_M3=take(3 * moves, torch.int32).view(moves, 3),
        received_RB=take(received * width, torch.uint8).view(received, width),
    )
    return step, rows_T
