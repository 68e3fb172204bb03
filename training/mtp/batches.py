"""Where the answers of encoded dialogues are. Legend: A places whose next token is an answer's."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batches import Encoded
from training.mtp.answers import LIMIT, Answer


def spans(answer: list[bool]) -> list[tuple[int, int]]:
    """Returns where the answers of an encoded dialogue begin and end."""
    edges = [i for i, (one, other) in enumerate(zip([False, *answer], [*answer, False], strict=True)) if one != other]
    return list(zip(edges[::2], edges[1::2], strict=True))


def asked(encoded: Encoded, number: int, seed: int, temperature: float) -> Answer:
    """Returns answer `number` as one to be given by the trunk; the expected answer is the first guess."""
    ids, answer = encoded
    begin, end = spans(answer)[number]
    return Answer(ids[:begin], ids[begin : min(end, begin + LIMIT)], seed, temperature)


def ordinals(wanted_A: Tensor) -> Tensor:
    """[A]: the number of each place's token in its answer, from 0. Draft n of a pass can be at places from n on."""
    number_A = torch.arange(len(wanted_A))
    first_A = torch.ones(len(wanted_A), dtype=torch.bool)
    first_A[1:] = wanted_A[1:] != wanted_A[:-1] + 1
    return number_A - torch.where(first_A, number_A, 0).cummax(0).values
