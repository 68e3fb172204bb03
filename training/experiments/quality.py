"""Scores exact answers on held-out dialogues, and counts FFN experts per token.

One forward pass per dialogue is enough: a greedy answer equals the expected one if and only if every expected token is
the most likely one after the expected tokens before it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from training.data.batches import batch
from training.data.dialogues import Dialogue
from training.data.tokenizer import EOS
from training.model.longcat_flash import LongcatFlash
from training.stability.controller import Usage


@dataclass(frozen=True)
class Score:
    """`asked` and `exact` count answers by category; `usage` is per layer."""

    asked: Counter[str]
    exact: Counter[str]
    flawless: int  # dialogues with every answer exact
    dialogues: int
    usage: list[Usage]

    @property
    def share(self) -> float:
        return self.exact.total() / self.asked.total()


@torch.no_grad()
def score(model: LongcatFlash, tokenizer: Tokenizer, dialogues: list[Dialogue], chunk: int = 32) -> Score:
    """Scores all dialogues in batches of `chunk`."""
    asked: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    flawless = 0
    chosen: list[list[torch.Tensor]] = [[] for _ in model.mixtures()]
    for start in range(0, len(dialogues), chunk):
        part = dialogues[start : start + chunk]
        step = batch(tokenizer, part, groups=8)
        right_A = model(step.ids_T, step.groups, step.wanted_A).argmax(-1) == step.target_A
        for layer, moe in enumerate(model.mixtures()):
            assert moe.chosen_TK is not None
            chosen[layer].append(moe.chosen_TK[step.real_T])
        for number, dialogue in enumerate(part):
            mine_A = step.dialogue_A == number
            ends = (step.target_A[mine_A] == EOS).nonzero().flatten() + 1
            answers = right_A[mine_A].tensor_split(ends[:-1])
            verdicts = [bool(answer.all()) for answer in answers]
            flawless += all(verdicts)
            for answer, verdict in zip(dialogue.answers, verdicts, strict=True):
                asked[answer.category] += 1
                exact[answer.category] += verdict
    experts = model.config.n_routed_experts
    return Score(asked, exact, flawless, len(dialogues), [Usage.of(torch.cat(c), experts) for c in chosen])
