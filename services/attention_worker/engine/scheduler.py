"""The scheduler: which tokens of which sequences the next step runs. No torch, no I/O, no clock.

Sequences are served first come, first served. `running` and `waiting` are each in that order, and everything running
came before everything waiting: admission takes the head of `waiting`, preemption the tail of `running`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.sequence import Sequence


class CannotFit(ValueError):
    """The request's pages would not fit into the cache even if it ran alone."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence in one step: the whole prompt, a part of it, or the one token of a decode."""

    sequence: Sequence
    start: int
    length: int

    @property
    def samples(self) -> bool:
        """Whether the chunk ends with the sequence's last known token, so that a token is sampled after it."""
        return self.start + self.length == len(self.sequence.ids)


class Scheduler:
    """Divides a budget of tokens per step among sequences, and pages among those that run."""

    def __init__(self, pages: PagePool, max_batch_tokens: int, max_running: int) -> None:
        assert 0 < max_running <= max_batch_tokens, "a step must take one token of every running sequence"
        self.pages = pages
        self.max_batch_tokens = max_batch_tokens
        self.max_running = max_running
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.preemptions = 0

    def check_fits(self, max_length: int) -> None:
        """Raises CannotFit when a sequence of `max_length` tokens could never finish here."""
        wanted = self.pages.pages_for(max_length)
        if wanted > self.pages.total:
            raise CannotFit(
                f"{max_length} tokens need {wanted} pages of {self.pages.page_size}, the cache has {self.pages.total}"
            )

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step: one token of every decode, then prompt chunks, first come, first served."""
        preemptions = self.preemptions
        chunks = self._decodes()
        budget = self.max_batch_tokens - len(chunks)
        budget = self._prefill(chunks, budget)
        if self.preemptions == preemptions:  # or a sequence that was just preempted would be admitted again
            self._admit(chunks, budget)
        return chunks

    def remove(self, sequence: Sequence) -> None:
        """Removes a running or waiting sequence and frees its pages."""
        if sequence.row is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._free_pages(sequence)

    def _decodes(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            if sequence.row is not None and sequence.remaining == 1 and self._grow(sequence):
                chunks.append(Chunk(sequence, sequence.cached, 1))
        return chunks

    def _grow(self, sequence: Sequence) -> bool:
        """Allocates the page of the sequence's next token, if need be by preempting the latest sequences.

        False when the sequence itself was preempted.
        """
        assert sequence.row is not None
        while not self.pages.grow(sequence.row, len(sequence.ids)):
            victim = self.running.pop()
            self._free_pages(victim)
            self.waiting.appendleft(victim)
            self.preemptions += 1
            if victim is sequence:
                return False
        return True

    def _prefill(self, chunks: list[Chunk], budget: int) -> int:
        for sequence in self.running:
            if budget > 0 and sequence.remaining > 1:
                budget -= self._chunk(chunks, sequence, budget)
        return budget

    def _admit(self, chunks: list[Chunk], budget: int) -> None:
        while budget > 0 and self.waiting and len(self.running) < self.max_running:
            sequence = self.waiting[0]
            # With the first new token's page, or the sequence might be preempted one step after its admission.
            sequence.row = self.pages.allocate(len(sequence.ids) + 1)
            if sequence.row is None:
                return
            self.running.append(self.waiting.popleft())
            budget -= self._chunk(chunks, sequence, budget)

    @staticmethod
    def _chunk(chunks: list[Chunk], sequence: Sequence, budget: int) -> int:
        length = min(sequence.remaining, budget)
        chunks.append(Chunk(sequence, sequence.cached, length))
        return length

    def _free_pages(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self.pages.free(sequence.row)
        sequence.row, sequence.cached = None, 0
