"""The tokens of a step: for each sequence one, and as many more as its drafts equal what is drawn from their rows.

A draft is right if it is the token that the sampler draws from the row before it. Then its own row is that of the next
token, computed from the right ids, and the token drawn from it is the one that a step of its own would give.
Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from services.attention_worker.engine.sampler import NonFiniteLogits, Sampled, sample_tokens
from services.attention_worker.engine.sequence import Ending, TokenOut
from services.attention_worker.engine.step_plan import Chunk
from services.attention_worker.engine.token_rules import NothingAllowed


@dataclass(slots=True)
class Answer:
    """What a sequence gets in a step."""

    chunk: Chunk
    drafts: list[int]
    tokens: list[TokenOut] = field(default_factory=list)
    accepted: int = 0  # of the drafts
    ending: Ending | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the next token can be drawn in this step: a draft was right, so its row is that of the next token."""
        return self.ending is None and self.accepted == len(self.tokens)

    @property
    def kept(self) -> int:
        """How many of the chunk's rows are of the sequence: those of wrong drafts are not."""
        return self.chunk.known + max(0, len(self.tokens) - 1)

    def take(self, token: Sampled) -> None:
        """Takes the next token, and what follows from it."""
        sequence = self.chunk.sequence
        if isinstance(token, NonFiniteLogits):
            self.ending = Ending("failed", message=str(token))
            return
        if isinstance(token, NothingAllowed):
            self.ending = Ending("rejected", message=str(token))
            return
        if sequence.generated == len(sequence.request.emitted_ids):
            token = replace(token, cached=sequence.hit)
        if self.drafts:
            place = len(self.tokens)
            right = place < len(self.drafts) and self.drafts[place] == token.id
            self.accepted += right
            token = replace(token, drafted=0 if place else len(self.drafts), draft_place=place + 1 if right else 0)
        self.tokens.append(token)
        sequence.append(token.id)
        self.ending = sequence.ending
        if sequence.rules is not None and self.ending is None:
            try:
                sequence.rules.accept(token.id)
            except NothingAllowed as error:
                self.ending = Ending("rejected", message=str(error))


def draw_answers(logits_BV: Tensor, sampling: list[Chunk]) -> list[Answer]:
    """Draws the tokens of the chunks that sample. The rows are in the order of `StepInputs.build`.

    A sequence takes each token before the next one is drawn, so that penalties and rules are those of a step of its
    own. Its drafts' rows after a wrong one are not looked at.
    """
    answers = [Answer(chunk, chunk.own_drafts if chunk.drafts else []) for chunk in sampling]
    going, rows_BV = answers, logits_BV[: len(answers)]
    first, place = len(answers), 1
    while going:
        for answer, token in zip(going, sample_tokens(rows_BV, [one.chunk.sequence for one in going]), strict=True):
            answer.take(token)
        drafted = [answer for answer in answers if len(answer.drafts) >= place]
        right = [index for index, answer in enumerate(drafted) if answer.goes_on and len(answer.tokens) == place]
        going = [drafted[index] for index in right]
        rows_BV = logits_BV[first : first + len(drafted)]
        if 0 < len(going) < len(drafted):
            rows_BV = rows_BV.index_select(0, torch.tensor(right, device=rows_BV.device))
        first, place = first + len(drafted), place + 1
    return answers
