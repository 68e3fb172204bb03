"""Drafts the next tokens of running answers after a step, for the next step to verify.

Every row that a step has kept goes through the draft as well, with the token after it: so the draft's cache is whole,
whether or not tokens are drafted. A draft of several tokens runs the draft again over its own rows; the cache entries
of those are written anew when the model has verified them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import structlog
from torch import Tensor

from services.attention_worker.engine.answers import Answer
from services.attention_worker.engine.draft_policy import DraftPolicy
from services.attention_worker.engine.inputs import Arrays, DraftInputs, Span
from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.engine.sampler import guess_tokens
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Sequence
from services.attention_worker.engine.step_plan import Chunk
from services.attention_worker.model.step import Step

log = structlog.get_logger(__name__)

MOST_DRAFTS = 3


class DraftingModel(Protocol):
    """What drafting needs of a model that `drafts`."""

    def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor: ...


@dataclass(slots=True)
class DraftCounters:
    """Sums since the engine started; written by its thread, read by any."""

    drafts: int = 0  # of a sequence in a step
    tokens: int = 0
    failed: int = 0  # steps after which drafting failed
    accepted: list[int] = field(default_factory=lambda: [0] * MOST_DRAFTS)  # by their place in the draft


class Drafter:
    """Drafts for the engine's sequences, on its thread."""

    def __init__(
        self, model: DraftingModel, cache: KvCache, step_arrays: Arrays, scheduler: Scheduler, most: int
    ) -> None:
        self.policy = DraftPolicy(most, scheduler.cost)
        self.counters = DraftCounters()
        self._model, self._cache, self._scheduler = model, cache, scheduler
        self._inputs = DraftInputs(cache, step_arrays, scheduler.max_batch_tokens)
        self._fails = False  # the last time: it is said once

    def verified(self, answers: list[Answer]) -> None:
        """Counts what became of a step's drafts."""
        for answer in answers:
            drafts = answer.chunk.drafts
            if drafts:
                self.counters.drafts += 1
                self.counters.tokens += drafts
                for place in range(answer.accepted):
                    self.counters.accepted[place] += 1
                self.policy.verified(answer.chunk.sequence, drafts, answer.accepted)

    def draft(self, chunks: list[Chunk], kept: dict[int, int]) -> None:
        """Runs the draft over the rows of a step, and drafts for its sequences that are decodes now.

        `chunks`: all of the step's; `kept`: how many rows of a sequence that sampled are of it. What fails here costs
        drafts alone.
        """
        for chunk in chunks:
            chunk.sequence.drafts = []
        try:
            self._draft(chunks, kept)
            self._fails = False
        except Exception as error:
            for chunk in chunks:
                chunk.sequence.drafts = []
            self.counters.failed += 1
            if not self._fails:
                log.error("drafting failed; answers go on without", exc_info=error)
            self._fails = True

    def _draft(self, chunks: list[Chunk], kept: dict[int, int]) -> None:
        rows, ids, ends = _kept(chunks, kept)
        if not rows:
            return
        decodes = [sequence for sequence, _ in ends]
        self.policy.begin(decodes, self._scheduler.fair.spared(decodes))
        wanting = [(sequence, end, wanted) for sequence, end in ends if (wanted := self._wanted(sequence))]
        step, rows_T = self._inputs.after_step(rows, ids, [end for _, end, _ in wanting])
        logits_BV = self._model.draft(step, rows_T, self._cache.tensors)
        going = [(sequence, wanted) for sequence, _, wanted in wanting]
        ahead = 0
        while going:
            guesses = guess_tokens(logits_BV, [sequence for sequence, _ in going], ahead)
            ahead += 1
            again: list[tuple[int, Sequence, int]] = []
            for place, ((sequence, wanted), guess) in enumerate(zip(going, guesses, strict=True)):
                if guess is not None:
                    sequence.drafts.append(guess)
                    if wanted > ahead:
                        again.append((place, sequence, wanted))
            if again:
                logits_BV = self._again([(place, sequence) for place, sequence, _ in again])
            going = [(sequence, wanted) for _, sequence, wanted in again]

    def _wanted(self, sequence: Sequence) -> int:
        """How many tokens to draft of it. The second one writes to the cache before the next step takes pages."""
        wanted = self.policy.wanted(sequence)
        return wanted if wanted < 2 or self._scheduler.take_draft_pages(sequence, wanted) else 1

    def _again(self, going: list[tuple[int, Sequence]]) -> Tensor:
        """Logits after each sequence's last draft. They come with their places in the draft before."""
        spans = []
        for _, sequence in going:
            assert sequence.row is not None, "only running sequences are drafted"
            spans.append(Span(sequence.row, sequence.drafts[-1:], sequence.cached + len(sequence.drafts) - 1))
        return self._model.draft(*self._inputs.again([place for place, _ in going], spans), self._cache.tensors)


def _kept(chunks: list[Chunk], kept: dict[int, int]) -> tuple[list[int], list[int], list[tuple[Sequence, int]]]:
    """The rows of a step that are of their sequences, the token after each, and the decodes with their last row.

    Also of sequences that have ended: others may share their pages.
    """
    rows: list[int] = []
    ids: list[int] = []
    ends: list[tuple[Sequence, int]] = []
    place = 0
    for chunk in chunks:
        sequence, start = chunk.sequence, chunk.start
        after = sequence.ids[start + 1 : start + 1 + kept.get(sequence.key, chunk.length)]
        rows += range(place, place + len(after))
        ids += after
        if after and sequence.row is not None and sequence.remaining == 1:
            ends.append((sequence, len(rows) - 1))
        place += chunk.length
    return rows, ids, ends
