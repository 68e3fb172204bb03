"""How many tokens to draft of an answer: as many as are likely to be worth the step's longer time. No torch, no I/O.

A draft is worth it where its chance of being accepted is above what its row costs, as a share of what a token costs
now. In a step that few rows fill, a row costs little beside the weights and the wait for experts; in a full step
as much as a token does, and then nothing is drafted.
"""

from __future__ import annotations

from services.attention_worker.engine.sequence import FIRST_ACCEPTANCE, Sequence
from services.attention_worker.engine.step_cost import StepCost, Work

WEIGHT = 0.1  # of one draft in a sequence's rate of acceptance
RETURN = 0.002  # how far the rate of a sequence without drafts goes back to the first one, in a step: it is tried again


class DraftPolicy:
    """Decides for each sequence by its own rate of acceptance and by the cost of steps."""

    def __init__(self, most: int, cost: StepCost) -> None:
        self.most = most
        self._cost = cost
        self._price = self._spared_price = 0.0
        self._spared: set[int] = set()

    def begin(self, decodes: list[Sequence], spared: list[Sequence]) -> None:
        """Begins to decide for the next step, which has these decodes.

        `spared`: of them, those whose price is that of a step without the others.
        """
        self._spared = {sequence.key for sequence in spared}
        self._price = self._price_of(decodes)
        self._spared_price = self._price_of(spared) if spared else 0.0

    def _price_of(self, decodes: list[Sequence]) -> float:
        return self._cost.price(Work(len(decodes), sum(len(sequence.ids) for sequence in decodes), 0))

    def wanted(self, sequence: Sequence) -> int:
        """How many tokens to draft of it."""
        price = self._spared_price if sequence.key in self._spared else self._price
        wanted, chance = 0, sequence.acceptance
        while wanted < min(self.most, sequence.most_drafts) and chance > price:
            wanted += 1
            chance *= sequence.acceptance
        if not wanted:
            sequence.acceptance += RETURN * (FIRST_ACCEPTANCE - sequence.acceptance)
        return wanted

    def verified(self, sequence: Sequence, drafts: int, accepted: int) -> None:
        """Learns what became of a sequence's drafts: what follows a wrong one says nothing."""
        for place in range(min(drafts, accepted + 1)):
            sequence.acceptance += WEIGHT * ((place < accepted) - sequence.acceptance)
