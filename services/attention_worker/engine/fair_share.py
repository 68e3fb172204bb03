"""How the time of a step, and the pages, are shared between callers. No torch, no I/O, no clock.

A caller with few sequences is not to pay for another's many: while several callers have sequences here, a step takes at
most `slowdown` times as long as it would if each had no more than the one with fewest, for its weight. The others'
sequences take turns. Where more rows cost next to nothing, as on GPUs, all of them fit. Drafts of a caller that has
fewest are its own rows: a crowd takes them no more than its tokens. What runs together changes no bit. A sequence's
priority counts among those of its caller alone: else whoever names the lowest would be served first.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter

from services.attention_worker.engine.sequence import Sequence
from services.attention_worker.engine.step_cost import StepCost, Work

GAP = 2  # how many times a newcomer's share others must have left to give way to it
LEARN_EVERY = 16  # steps between two that show what a step without the others' excess costs: else nothing would


class FairShare:
    """Counts each caller's sequences, those that run and those that wait."""

    def __init__(self, cost: StepCost, slowdown: float) -> None:
        """`slowdown`: infinity where all that can run is to run in every step."""
        self._cost, self._slowdown = cost, slowdown
        self._held: Counter[int] = Counter()
        self._waiting: Counter[int] = Counter()
        self._ranked = 0  # that wait with a priority
        self._steps = 0
        self._fewest = 0.0  # that a caller wanted when the last step was planned

    @property
    def several(self) -> bool:
        """Whether more than one caller has sequences here."""
        return len(self._held.keys() | self._waiting.keys()) > 1

    def joined(self, sequence: Sequence) -> None:
        """Counts a sequence that begins to run."""
        self._held[sequence.request.caller] += 1

    def left(self, sequence: Sequence) -> None:
        """Counts a sequence that runs no more."""
        _less(self._held, sequence)

    def waits(self, sequence: Sequence) -> None:
        """Counts a sequence that begins to wait."""
        self._waiting[sequence.request.caller] += 1
        self._ranked += sequence.request.priority != 0

    def waits_no_more(self, sequence: Sequence) -> None:
        """Counts a sequence that has waited."""
        _less(self._waiting, sequence)
        self._ranked -= sequence.request.priority != 0

    def share(self, sequence: Sequence, more: int = 0) -> float:
        """How many sequences of its caller run, and `more`, for its weight."""
        return (self._held[sequence.request.caller] + more) / sequence.request.weight

    def has_least(self, sequence: Sequence) -> bool:
        """Whether no caller has fewer sequences here than the sequence's, for its weight."""
        return self._wants(sequence) <= self._fewest

    def spared(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those that are drafted as if the others' excess were not here; none where nobody has any."""
        if not self.several or self._slowdown == math.inf:
            return []
        return [sequence for sequence in sequences if self.has_least(sequence)]

    def _wants(self, sequence: Sequence) -> float:
        return self.share(sequence, self._waiting[sequence.request.caller])

    def next_of(self, waiting: Iterable[Sequence]) -> Sequence:
        """Returns the one to be admitted next: of the caller that has least, the first of the lowest priority."""
        first = min(waiting, key=self.share) if len(self._waiting) > 1 else next(iter(waiting))
        if not self._ranked:
            return first
        caller = first.request.caller
        return min((one for one in waiting if one.request.caller == caller), key=_priority)

    def latest_of_most(self, running: list[Sequence]) -> Sequence:
        """Returns who gives way: the latest of the caller that has most; the latest of all where each has only one.

        Of one caller's sequences, the latest of the highest priority.
        """
        several = [one for one in running if self._held[one.request.caller] > 1]
        if not several:
            return running[-1]
        most = max(map(self.share, several))
        caller = next(one for one in reversed(several) if self.share(one) == most).request.caller
        return max((one for one in reversed(several) if one.request.caller == caller), key=_priority)

    def prompts(self, running: list[Sequence]) -> list[Sequence]:
        """The sequences whose prompts get tokens, in their order: those of callers that have least first."""
        found = [one for one in running if one.remaining > 1]
        place: dict[int, int] = {}
        for index, one in enumerate(found):
            place.setdefault(one.request.caller, index)
        return sorted(found, key=lambda one: (self.share(one), place[one.request.caller], _priority(one)))

    def choose(
        self, running: list[Sequence], waiting: Iterable[Sequence], most_tokens: int
    ) -> tuple[list[Sequence], float]:
        """Returns the decodes of the next step, and how many seconds it may take for prompts of those who have more.

        `most_tokens`: of a step.
        """
        decodes = [sequence for sequence in running if sequence.remaining == 1]
        self._steps += 1
        if not self.several or self._slowdown == math.inf:
            return decodes, math.inf
        self._fewest = fewest = min(map(self._wants, chain(running, waiting)))
        prompts = Work()
        for sequence in chain(running, waiting):
            if sequence.remaining > 1 and self.has_least(sequence):
                prompts += Work.of_chunk(sequence.cached, min(sequence.remaining, most_tokens), decode=False)
        turns = sorted(decodes, key=attrgetter("ran"))
        equal = _equal(turns, fewest)
        limit_s = self._slowdown * self._cost.predict(sum(map(self._work, equal), prompts))
        if self._steps % LEARN_EVERY == 0:
            decodes = equal
        elif self._cost.predict(sum(map(self._work, decodes), prompts)) > limit_s:
            decodes = self._in_turn(turns, prompts, limit_s)
        for sequence in decodes:
            sequence.ran = self._steps
        return decodes, limit_s

    def _in_turn(self, turns: list[Sequence], work: Work, limit_s: float) -> list[Sequence]:
        """As many sequences as fit, from each caller in turn, and at least one of each."""
        of_caller: dict[int, list[Sequence]] = {}
        for sequence in reversed(turns):
            of_caller.setdefault(sequence.request.caller, []).append(sequence)
        heap = [(0.0, caller) for caller in of_caller]
        chosen: list[Sequence] = []
        while heap:
            had, caller = heapq.heappop(heap)
            sequence = of_caller[caller].pop()
            work += self._work(sequence)
            if had and self._cost.predict(work) > limit_s:
                break
            chosen.append(sequence)
            if of_caller[caller]:
                heapq.heappush(heap, (had + 1 / sequence.request.weight, caller))
        return chosen

    def _work(self, sequence: Sequence) -> Work:
        drafts = len(sequence.drafts) if self.has_least(sequence) else 0
        return Work.of_chunk(sequence.cached, 1 + drafts, decode=True)


def victims(
    running: list[Sequence], newcomer: Sequence, lacks: int, leaves: Callable[[int], int], fair: FairShare
) -> list[Sequence]:
    """Returns who makes room for a newcomer that lacks so many pages: the latest sequences of the callers with most.

    `leaves`: how many pages more there are for it when a row leaves after those before. At least one sequence; none
    where that would leave a caller with less than GAP times what the newcomer's has then: what was computed is lost.
    """
    of_caller: dict[int, list[Sequence]] = {}
    for sequence in sorted(running, key=_priority):
        of_caller.setdefault(sequence.request.caller, []).append(sequence)
    mine = fair.share(newcomer, 1)
    found: list[Sequence] = []
    while lacks > 0 or not found:
        theirs = max(of_caller.values(), key=lambda held: len(held) / held[-1].request.weight)
        if (len(theirs) - 1) / theirs[-1].request.weight < GAP * mine:
            return []
        found.append(theirs.pop())
        assert found[-1].row is not None, "only running sequences have pages"
        lacks -= leaves(found[-1].row)
    return found


def _priority(sequence: Sequence) -> int:
    return sequence.request.priority


def _less(counts: Counter[int], sequence: Sequence) -> None:
    caller = sequence.request.caller
    counts[caller] -= 1
    if not counts[caller]:
        del counts[caller]


def _equal(turns: list[Sequence], fewest: float) -> list[Sequence]:
    """The sequences of a step in which no caller has more than `fewest` for its weight, but each has one."""
    taken: Counter[int] = Counter()
    equal: list[Sequence] = []
    for sequence in turns:
        caller = sequence.request.caller
        if taken[caller] < max(1, math.ceil(fewest * sequence.request.weight)):
            taken[caller] += 1
            equal.append(sequence)
    return equal
