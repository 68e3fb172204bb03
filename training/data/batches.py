"""Dialogues as training batches, right-padded in groups of similar length.

Legend: T tokens of all groups, A tokens that are learned: those of answers, or all but the first of each dialogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.data.chat import segments
from training.data.dialogues import Dialogue
from training.data.tokenizer import PAD

ROUNDED = 16  # lengths of groups that are computed alone: oneDNN compiles bf16 products for each new shape
Encoded = tuple[list[int], list[bool]]  # ids, and for each whether the model has to generate it


@dataclass(frozen=True)
class Batch:
    """One training step. `wanted_A` are the indices into T whose next token is learned, `target_A` those tokens.

    The loss's weights: n tokens of an answer weigh sqrt(n), so that long tool calls do not dominate; others are equal.
    """

    ids_T: Tensor
    groups: list[tuple[int, int]]
    real_T: Tensor
    wanted_A: Tensor
    target_A: Tensor
    weight_A: Tensor
    answer_A: Tensor  # whether it is an answer's token
    dialogue_A: Tensor  # index of the dialogue in the input

    def to(self, device: torch.device) -> Batch:
        """Returns the batch with its tensors on a device."""
        return replace(
            self,
            ids_T=self.ids_T.to(device),
            real_T=self.real_T.to(device),
            wanted_A=self.wanted_A.to(device),
            target_A=self.target_A.to(device),
            weight_A=self.weight_A.to(device),
            answer_A=self.answer_A.to(device),
            dialogue_A=self.dialogue_A.to(device),
        )


def encode(tokenizer: Tokenizer, dialogue: Dialogue) -> Encoded:
    ids: list[int] = []
    answer: list[bool] = []
    for text, produced in segments(dialogue):
        part = tokenizer.encode(text, add_special_tokens=False).ids
        ids += part
        answer += [produced] * len(part)
    return ids, answer


@dataclass(frozen=True)
class Padded:
    """Rows of ids behind one another, shortest first. By input row: where it starts in T."""

    ids_T: Tensor
    groups: list[tuple[int, int]]
    order: list[int]
    starts: list[int]


def pad(rows: list[list[int]], groups: int, multiple: int = 1) -> Padded:
    """Pads the rows in `groups` groups of similar length, each to its longest, rounded up to a multiple."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    size = -(-len(rows) // groups)
    ids: list[int] = []
    starts = [0] * len(rows)
    shapes = []
    for chunk in (order[i : i + size] for i in range(0, len(order), size)):
        length = -(-len(rows[chunk[-1]]) // multiple) * multiple
        shapes.append((len(chunk), length))
        for number in chunk:
            starts[number] = len(ids)
            ids += rows[number] + [PAD] * (length - len(rows[number]))
    return Padded(torch.tensor(ids), shapes, order, starts)


def batch(tokenizer: Tokenizer, dialogues: Iterable[Dialogue], groups: int, prompt_weight: float = 0.0) -> Batch:
    """Returns the dialogues of one step, shortest first, in `groups` groups, each padded to its longest."""
    return batch_of([encode(tokenizer, dialogue) for dialogue in dialogues], groups, 1, prompt_weight)


def dealt(tokenizer: Tokenizer, dialogues: Iterable[Dialogue], groups: int, prompt_weight: float = 0.0) -> list[Batch]:
    """Returns the same groups as batches of their own, those of short dialogues beside those of long ones.

    So neighbours, and quarters and halves of the list, have about as many tokens; what stands at the same place in each
    of them is of similar length.
    """
    encoded = sorted((encode(tokenizer, dialogue) for dialogue in dialogues), key=lambda one: len(one[0]))
    size = -(-len(encoded) // groups)
    parts = [batch_of(encoded[i : i + size], 1, ROUNDED, prompt_weight) for i in range(0, len(encoded), size)]
    half = (len(parts) + 1) // 2
    order = [number for short in range(half) for number in dict.fromkeys((short, len(parts) - 1 - short))]
    return [parts[number] for number in order]


def batch_of(encoded: list[Encoded], groups: int, multiple: int = 1, prompt_weight: float = 0.0) -> Batch:
    """Returns the batch of encoded dialogues. `prompt_weight`: of each token that is no answer's; 0: not learned."""
    padded = pad([ids for ids, _ in encoded], groups, multiple)
    real_T = torch.zeros(len(padded.ids_T), dtype=torch.bool)
    owner: list[int] = []
    wanted: list[int] = []
    weight: list[float] = []
    answers: list[bool] = []
    for number in padded.order:
        (ids, answer), start = encoded[number], padded.starts[number]
        real_T[start : start + len(ids)] = True
        of_answers = iter(_weights(answer))
        learned = [i for i, produced in enumerate(answer) if produced or (prompt_weight and i)]
        wanted += [start + i - 1 for i in learned]
        owner += [number] * len(learned)
        weight += [next(of_answers) if answer[i] else prompt_weight for i in learned]
        answers += [answer[i] for i in learned]
    wanted_A = torch.tensor(wanted)
    return Batch(
        padded.ids_T,
        padded.groups,
        real_T,
        wanted_A,
        padded.ids_T[wanted_A + 1],
        torch.tensor(weight),
        torch.tensor(answers),
        torch.tensor(owner),
    )


def _weights(answer: list[bool]) -> list[float]:
    lengths = [len(list(run)) for produced, run in groupby(answer) if produced]
    return [length**-0.5 for length in lengths for _ in range(length)]
