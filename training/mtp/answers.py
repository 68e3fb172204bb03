"""The trunk's own answers, greedy or sampled with the noise that servers use, from many prompts at once.

The model has no KV cache here, so an answer is guessed whole and corrected: one pass over a guess gives, at every
place, the token that follows what is guessed before it. All up to the first difference are right, and the rest is the
next guess (Jacobi decoding). The result is that of sampling token by token, because the noise belongs to the position.
Legend: A places that get a token, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from caracal_kernels import sample
from torch import Tensor

from training.data.batches import pad
from training.data.tokenizer import EOS
from training.model.longcat_flash import LongcatFlash

LIMIT = 96  # tokens of an answer that does not end


@dataclass
class Answer:
    """An answer while it is guessed. The first `known` tokens of `ids` are the trunk's own."""

    prompt: list[int]
    ids: list[int]
    seed: int
    temperature: float
    limit: int = LIMIT
    known: int = 0

    @property
    def complete(self) -> bool:
        return self.known == len(self.ids) and (self.known == self.limit or EOS in self.ids)

    def correct(self, drawn: list[int]) -> None:
        """Takes the tokens that follow the prompt and each token of the guess: one more than were guessed."""
        right = self.known
        while right < len(self.ids) and drawn[right] == self.ids[right]:
            right += 1
        after = [*self.ids[:right], *drawn[right:]]
        end = after.index(EOS) + 1 if EOS in after else self.limit
        self.ids = after[:end]
        self.known = min(right + 1, len(self.ids))


@torch.no_grad()
def complete(model: LongcatFlash, answers: list[Answer], groups: int = 8) -> None:
    """Makes every answer complete: it ends with EOS, or has as many tokens as it may."""
    while open_ones := [answer for answer in answers if not answer.complete]:
        padded = pad([answer.prompt + answer.ids for answer in open_ones], groups)
        places = [
            torch.arange(len(answer.ids) + 1) + start + len(answer.prompt) - 1
            for answer, start in zip(open_ones, padded.starts, strict=True)
        ]
        logits_AV = model(padded.ids_T, padded.groups, torch.cat(places))
        drawn_A = draw(logits_AV, open_ones, [len(place) for place in places], first=0)
        for answer, drawn in zip(open_ones, drawn_A.split([len(place) for place in places]), strict=True):
            answer.correct(drawn.tolist())


def draw(logits_AV: Tensor, answers: list[Answer], counts: list[int], first: int) -> Tensor:
    """Token ids [A] at `counts` successive places of each answer, from number `first` of its tokens on."""
    repeats = torch.tensor(counts)
    seeds_A = torch.tensor([answer.seed for answer in answers]).repeat_interleave(repeats)
    temperature_A = torch.tensor([answer.temperature for answer in answers]).repeat_interleave(repeats)
    positions = [
        torch.arange(count) + len(answer.prompt) + first for answer, count in zip(answers, counts, strict=True)
    ]
    off = torch.zeros(len(seeds_A))
    return sample(logits_AV.float(), seeds_A, torch.cat(positions), temperature_A, off.int(), off + 1, off)
