"""Dialogues as training batches, right-padded in groups of similar length.

Legend: T tokens of all groups, A tokens of answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.chat import segments
from training.dialogues import Dialogue
from training.tokenizer import PAD

Encoded = tuple[list[int], list[bool]]  # ids, and for each whether the model has to generate it


@dataclass(frozen=True)
class Batch:
    """One training step. `wanted_A` are the indices into T whose next token is an answer's, `target_A` those tokens."""

    ids_T: Tensor
    groups: list[tuple[int, int]]
    real_T: Tensor
    wanted_A: Tensor
    target_A: Tensor
    weight_A: Tensor  # of the loss: n tokens of an answer weigh sqrt(n), so that long tool calls do not dominate
    dialogue_A: Tensor  # index of the dialogue in the input


def encode(tokenizer: Tokenizer, dialogue: Dialogue) -> Encoded:
    ids: list[int] = []
    answer: list[bool] = []
    for text, produced in segments(dialogue):
        part = tokenizer.encode(text, add_special_tokens=False).ids
        ids += part
        answer += [produced] * len(part)
    return ids, answer


def batch(tokenizer: Tokenizer, dialogues: Iterable[Dialogue], groups: int) -> Batch:
    """Returns the dialogues of one step, shortest first, in `groups` groups, each padded to its longest."""
    encoded = sorted(enumerate(encode(tokenizer, d) for d in dialogues), key=lambda item: len(item[1][0]))
    size = -(-len(encoded) // groups)
    ids: list[int] = []
    real: list[bool] = []
    owner: list[int] = []
    wanted: list[int] = []
    weight: list[float] = []
    shapes = []
    for chunk in (encoded[i : i + size] for i in range(0, len(encoded), size)):
        length = len(chunk[-1][1][0])
        shapes.append((len(chunk), length))
        for number, (row, answer) in chunk:
            wanted += [len(ids) + i - 1 for i, produced in enumerate(answer) if produced]
            owner += [number] * sum(answer)
            weight += _weights(answer)
            ids += row + [PAD] * (length - len(row))
            real += [True] * len(row) + [False] * (length - len(row))
    ids_T, wanted_A = torch.tensor(ids), torch.tensor(wanted)
    weight_A = torch.tensor(weight)
    return Batch(ids_T, shapes, torch.tensor(real), wanted_A, ids_T[wanted_A + 1], weight_A, torch.tensor(owner))


def _weights(answer: list[bool]) -> list[float]:
    lengths = [len(list(run)) for produced, run in groupby(answer) if produced]
    return [length**-0.5 for length in lengths for _ in range(length)]
