"""Samples tokens from logits: one op for the whole batch, after the penalties and masks that only some rows need.

Order, per row: repetition, frequency and presence penalties over the ids so far, logit bias, stop ids masked until
`min_tokens` is reached; then the op: temperature, top-k, top-p, min-p, Gumbel-max from (seed, position).
Log-probabilities are those of the model: from the row before penalties, bias and temperature.
Legend: B sequences that get a token, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from caracal_kernels import row_checks, sample
from numpy.typing import NDArray
from torch import Tensor

from services.attention_worker.engine.sequence import Sequence, TokenOut

Row = NDArray[np.float32]


class NonFiniteLogits(ArithmeticError):
    """The model gave NaN or infinity for this row, so no token may be sampled from it."""


def sample_tokens(logits_BV: Tensor, sequences: list[Sequence]) -> list[TokenOut | NonFiniteLogits]:
    """Samples one token for each sequence; the result of a row that is not finite is NonFiniteLogits.

    `logits_BV` is fp32, on any device, and is not changed. A row's result depends on that row and its sequence only.
    """
    rows_BV = logits_BV.cpu()
    checksum_B, finite_B = row_checks(rows_BV)
    # The op must not get NaN or infinity: such a row is replaced by zeros and its result is dropped.
    usable_BV = logits_BV if finite_B.all() else logits_BV.where(finite_B.to(logits_BV.device)[:, None], 0.0)
    ids_B = _sample(_adjusted(usable_BV, sequences), sequences)
    return [
        _token_out(row_V, sequence, token, checksum)
        if finite
        else NonFiniteLogits("the model gave logits that are not finite")
        for row_V, sequence, token, checksum, finite in zip(
            rows_BV, sequences, ids_B, checksum_B.tolist(), finite_B.tolist(), strict=True
        )
    ]


def _sample(logits_BV: Tensor, sequences: list[Sequence]) -> list[int]:
    asked, device = [sequence.sampling for sequence in sequences], logits_BV.device
    ids_B = sample(
        logits_BV,
        torch.tensor([one.seed for one in asked], dtype=torch.int64, device=device),
        torch.tensor([len(sequence.ids) for sequence in sequences], dtype=torch.int64, device=device),
        torch.tensor([one.temperature for one in asked], dtype=torch.float32, device=device),
        torch.tensor([one.top_k for one in asked], dtype=torch.int32, device=device),
        torch.tensor([one.top_p for one in asked], dtype=torch.float32, device=device),
        torch.tensor([one.min_p for one in asked], dtype=torch.float32, device=device),
    )
    ids: list[int] = ids_B.tolist()
    return ids


def _adjusted(logits_BV: Tensor, sequences: list[Sequence]) -> Tensor:
    """Applies penalties, bias and masks: the same tensor when no row needs them, else a copy."""
    changed = [index for index, sequence in enumerate(sequences) if sequence.sampling.adjusts_logits]
    if not changed:
        return logits_BV
    host_BV = logits_BV.cpu() if logits_BV.is_cuda else logits_BV.clone()
    rows = host_BV.numpy()
    for index in changed:
        _adjust(rows[index], sequences[index])
    return host_BV.to(logits_BV.device)


def _adjust(row: Row, sequence: Sequence) -> None:
    asked = sequence.sampling
    if asked.repetition_penalty != 1.0:
        seen = np.fromiter({*sequence.request.prompt_ids, *sequence.counts}, np.int64)
        penalty = np.float32(asked.repetition_penalty)
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    if sequence.counts and (asked.frequency_penalty or asked.presence_penalty):
        ids = np.fromiter(sequence.counts.keys(), np.int64)
        counts = np.fromiter(sequence.counts.values(), np.float32)
        row[ids] -= np.float32(asked.frequency_penalty) * counts + np.float32(asked.presence_penalty)
    for token, bias in asked.logit_bias.items():
        row[token] += np.float32(bias)
    if sequence.stop_masked:
        row[list(sequence.stop_ids)] = -np.inf


def _token_out(row_V: Tensor, sequence: Sequence, token: int, checksum: int) -> TokenOut:
    if not sequence.sampling.logprobs:
        return TokenOut(sequence.generated, token, checksum)
    logprobs_V = torch.log_softmax(row_V, -1)
    top = torch.topk(logprobs_V, sequence.sampling.top_logprobs)
    return TokenOut(
        sequence.generated,
        token,
        checksum,
        logprob=float(logprobs_V[token]),
        top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )
