"""A load of decode steps on an engine in this process: what one step costs, from counters read between steps."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from bench.compiled import CannotMeasure
from services.attention_worker.engine.sequence import Ending, TokenOut

ANSWER_S = 300.0


@dataclass(frozen=True, slots=True)
class Sums:
    """Counters of both processes between two steps."""

    at_s: float
    steps: int
    waited_s: float  # for experts
    messages: int
    attention_cpu_s: float
    expert_cpu_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """A decode step of one load: the median of its time, the averages of the rest. CPU counts waits that poll."""

    step_ms: float
    own_ms: float  # what is not waited for experts
    messages: float
    attention_cpu_ms: float
    expert_cpu_ms: float

    @classmethod
    def of(cls, before: Sums, after: Sums, times: Sequence[float]) -> Turn:
        """`times`: the end of every step, in seconds."""
        spent = {f.name: (getattr(after, f.name) - getattr(before, f.name)) for f in fields(Sums)}
        steps = spent["steps"]
        return cls(
            step_ms=1e3 * statistics.median(b - a for a, b in pairwise(times)),
            own_ms=1e3 * (spent["at_s"] - spent["waited_s"]) / steps,
            messages=spent["messages"] / steps,
            attention_cpu_ms=1e3 * spent["attention_cpu_s"] / steps,
            expert_cpu_ms=1e3 * spent["expert_cpu_s"] / steps,
        )


class Load:
    """All streams of one turn. The engine's thread reports to it between steps, so that sums are of whole steps."""

    def __init__(self, streams: int, sums: Callable[[], Sums]) -> None:
        self.ended = threading.Event()
        self.failure = ""
        self._sums = sums
        self._waiting = self._running = streams
        self._before: Sums | None = None
        self._after: Sums | None = None
        self._times: list[float] = []
        self.answers: list[list[tuple[int, int]]] = []  # each stream's ids, with the checksums of their logits

    def stream(self) -> Callable[[list[TokenOut], Ending | None], None]:
        """The callback of one more stream."""
        answer: list[tuple[int, int]] = []
        started_last = False
        self.answers.append(answer)

        def emit(tokens: list[TokenOut], ending: Ending | None) -> None:
            nonlocal started_last
            if tokens and not answer:
                self._waiting -= 1
                if not self._waiting:
                    started_last, self._before = True, self._sums()
            answer.extend((token.id, token.logits_checksum) for token in tokens)
            if tokens and started_last:
                self._times.append(time.perf_counter())
            if ending:
                self._end(ending.message)

        return emit

    def result(self) -> Turn:
        """Waits for the end; returns a decode step of all streams. Raises CannotMeasure when a stream failed."""
        if not self.ended.wait(ANSWER_S) or self.failure:
            raise CannotMeasure(f"a stream failed: {self.failure or f'no end in {ANSWER_S:.0f} s'}")
        assert self._before is not None
        assert self._after is not None
        return Turn.of(self._before, self._after, self._times)

    def _end(self, message: str) -> None:
        self.failure = self.failure or message
        self._running -= 1
        if not self._running:
            self._after = self._sums()
            self.ended.set()
