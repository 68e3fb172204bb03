"""Samples tokens from logits: one op for the whole batch, after the penalties and masks that only some rows need.

Order, per row: repetition, frequency and presence penalties over the ids so far, logit bias, stop ids masked until
`min_tokens` is reached, the rules of token_rules.py; then the op: temperature, top-k, top-p, min-p, Gumbel-max from
(seed, position).
Log-probabilities are those of the model: from the row before penalties, bias and temperature.
Legend: B sequences that get a token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from caracal_kernels import row_checks, sample
from numpy.typing import NDArray
from torch import Tensor

from services.attention_worker.engine.sequence import Sequence, TokenOut
from services.attention_worker.engine.token_rules import NothingAllowed
from services.attention_worker.model.native_stack import unavailable

Row = NDArray[np.float32]
Parameters = tuple[  # seeds, positions, temperatures, top-k, top-p, min-p
    list[int], list[int], list[float], list[int], list[float], list[float]
]
Draw = Callable[..., tuple[list[int], list[int], list[int]]]

_DTYPES = (torch.int64, torch.int64, torch.float32, torch.int32, torch.float32, torch.float32)


class NonFiniteLogits(ArithmeticError):
    """The model gave NaN or infinity for this row, so no token may be sampled from it."""


Sampled = TokenOut | NonFiniteLogits | NothingAllowed


def sample_tokens(logits_BV: Tensor, sequences: list[Sequence]) -> list[Sampled]:
    """Samples one token for each sequence; the result of a row that is not finite is NonFiniteLogits.

    `logits_BV` is fp32, on any device, and is not changed. A row's result depends on that row and its sequence only.
    """
    rows_BV = logits_BV.cpu()
    rejected: dict[int, NothingAllowed] = {}
    ids, checksums, finite = _drawn(logits_BV, rows_BV, sequences, 0, rejected)
    return [
        _token_out(rows_BV, row, sequence, token, checksum)
        if good and row not in rejected
        else rejected.get(row, NonFiniteLogits("the model gave logits that are not finite"))
        for row, (sequence, token, checksum, good) in enumerate(zip(sequences, ids, checksums, finite, strict=True))
    ]


def guess_tokens(logits_BV: Tensor, sequences: list[Sequence], ahead: int) -> list[int | None]:
    """What `sample_tokens` would draw for each sequence when it has `ahead` more tokens, its drafts; None for nothing.

    With the same noise, and as far as they are known the same penalties, masks and rules: so what is drawn from logits
    that are nearly the model's is mostly the model's token. Rules are known for the next token alone.
    """
    rejected: dict[int, NothingAllowed] = {}
    ids, _, finite = _drawn(logits_BV, logits_BV.cpu(), sequences, ahead, rejected)
    return [
        token if good and row not in rejected else None
        for row, (token, good) in enumerate(zip(ids, finite, strict=True))
    ]


def _drawn(
    logits_BV: Tensor, rows_BV: Tensor, sequences: list[Sequence], ahead: int, rejected: dict[int, NothingAllowed]
) -> tuple[list[int], list[int], list[int]]:
    """Ids, checksums, and whether rows are finite; adds the rows that nothing may follow to `rejected`.

    `rows_BV`: the logits on the host.
    """
    as_they_are = not any(sequence.adjusts_logits for sequence in sequences)
    if as_they_are and not logits_BV.is_cuda and (draw := _native_draw()) is not None:
        return draw(logits_BV, *_parameters(sequences, ahead))
    return _draw(logits_BV, rows_BV, sequences, ahead, rejected)


@cache
def _native_draw() -> Draw | None:
    """The checks and the sampling op as one call of the native extension, where there is one."""
    if unavailable():
        return None
    from services.attention_worker import _native

    return _native.draw


def _parameters(sequences: list[Sequence], ahead: int) -> Parameters:
    asked = [sequence.sampling for sequence in sequences]
    return (
        [one.seed for one in asked],
        [len(sequence.ids) + ahead for sequence in sequences],
        [one.temperature for one in asked],
        [one.top_k for one in asked],
        [one.top_p for one in asked],
        [one.min_p for one in asked],
    )


def _draw(
    logits_BV: Tensor, rows_BV: Tensor, sequences: list[Sequence], ahead: int, rejected: dict[int, NothingAllowed]
) -> tuple[list[int], list[int], list[int]]:
    """The same, op by op."""
    checksum_B, finite_B = row_checks(rows_BV)
    # The op must not get NaN or infinity: such a row is replaced by zeros and its result is dropped.
    usable_BV = logits_BV if finite_B.all() else logits_BV.where(finite_B.to(logits_BV.device)[:, None], 0.0)
    parameters = [
        torch.tensor(values, dtype=dtype, device=logits_BV.device)
        for values, dtype in zip(_parameters(sequences, ahead), _DTYPES, strict=True)
    ]
    ids_B = sample(_adjusted(usable_BV, sequences, ahead, rejected), *parameters)
    return ids_B.tolist(), checksum_B.tolist(), finite_B.tolist()


def _adjusted(logits_BV: Tensor, sequences: list[Sequence], ahead: int, rejected: dict[int, NothingAllowed]) -> Tensor:
    """Applies penalties, bias, masks and rules: the same tensor when no row needs them, else a copy."""
    changed = [index for index, sequence in enumerate(sequences) if sequence.adjusts_logits]
    if not changed:
        return logits_BV
    host_BV = logits_BV.cpu() if logits_BV.is_cuda else logits_BV.clone()
    rows = host_BV.numpy()
    for index in changed:
        try:
            _adjust(rows[index], sequences[index], rules=ahead == 0)
        except NothingAllowed as error:
            rejected[index] = error
            rows[index] = 0.0  # the op must not get a row without a token, and what it samples here is dropped
    return host_BV.to(logits_BV.device)


def _adjust(row: Row, sequence: Sequence, *, rules: bool) -> None:
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
    if sequence.rules is not None and rules:
        sequence.rules.apply(row, sequence.stop_ids)
        if row.max() == -np.inf:
            raise NothingAllowed("the request's rules allow no token here")


def _token_out(rows_BV: Tensor, row: int, sequence: Sequence, token: int, checksum: int) -> TokenOut:
    if not sequence.sampling.logprobs:
        return TokenOut(sequence.generated, token, checksum)
    logprobs_V = torch.log_softmax(rows_BV[row], -1)
    top = torch.topk(logprobs_V, sequence.sampling.top_logprobs)
    return TokenOut(
        sequence.generated,
        token,
        checksum,
        logprob=float(logprobs_V[token]),
        top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )
