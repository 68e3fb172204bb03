"""An attention worker: the engine's own scheduler and pages; a step takes a while, and its rows go through the experts.

What it keeps of recent answers, how it takes tables and how an answer ends are the real code's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import takes_epoch_of
from simulation.exchange import Exchange
from simulation.expert_links import ExpertLinks
from simulation.expert_worker import Answer, Rejected
from simulation.oracle import CLASS, EOS, Row, token
from simulation.streams import Stream
from simulation.worker import Described, Worker

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.sequence import Ending, Request, Sampling, Sequence, TokenOut
from services.attention_worker.engine.step_plan import Chunk
from services.attention_worker.recent_answers import RecentAnswers
from services.attention_worker.table_follower import FIRST_S, LATER_S
from services.membership.checks import epoch_violation
from services.membership.numerics_class import fits
from services.membership.record import WorkerRecord
from services.router.requests.failover import DRAINING, NOT_BEGUN, STANDS_STILL
from services.security.calls import OTHER_RUN

if TYPE_CHECKING:
    from simulation.world import World

STEP_S = 0.025
PAGES, PAGE_SIZE, RUNNING, BATCH_TOKENS, LONGEST = 12, 4, 3, 8, 48
OWN_CLASS = f"{CLASS}-attention"


@dataclass(frozen=True, slots=True)
class Begin:
    """A router's message that begins an attempt. `number`: which one of its generation."""

    attempt_id: int
    number: int
    request_id: str
    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...]
    seed: int
    max_tokens: int
    resume_key: bytes
    resume_known: int


@dataclass(frozen=True, slots=True)
class Cancel:
    attempt_id: int


@dataclass(frozen=True, slots=True)
class News:
    """What comes of an attempt: tokens, how the answer ends, or `failed` when it does not."""

    attempt_id: int
    number: int
    tokens: tuple[TokenOut, ...] = ()
    ending: Ending | None = None


class AttentionWorker(Worker):
    role = "attention"

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.stands_still = False

    def begin(self) -> None:
        self.pages = PagePool(PAGES, PAGE_SIZE, RUNNING, LONGEST)
        self.scheduler = Scheduler(self.pages, BATCH_TOKENS, RUNNING)
        self.links = ExpertLinks(self)
        self.stands_still = False
        self._recent = RecentAnswers(clock=lambda: self.now)
        self._keys = count(1)
        self.open: dict[int, Sequence] = {}
        self._of_stream: dict[tuple[Stream, int], int] = {}
        self._streams: dict[Stream, None] = {}
        self._step: list[Chunk] = []
        self._exchange: Exchange | None = None
        self._polling = False
        super().begin()
        self._follow()

    @property
    def epoch(self) -> int:
        return self.links.routes.epoch

    def record(self) -> WorkerRecord:
        return WorkerRecord(
            worker_id=self.name,
            role=self.role,
            address=f"{self.name}:1",
            boot_id=self.boot_id,
            numerics_class=OWN_CLASS,
            epoch=self.epoch,
            draining=self.draining,
            stands_still=self.stands_still,
            stats={"running": float(len(self.open))},
        )

    def describe(self) -> Described:
        return Described(self.boot_id, self.epoch, self.draining)

    # tables

    def apply(self, table: Table, answer: Callable[[int | Rejected | None], None]) -> None:
        """As `AttentionService.ApplyTable`."""
        if not fits(OWN_CLASS, table.numerics_class):
            answer(Rejected(f"the table is for {table.numerics_class}"))
        elif why := epoch_violation(table.epoch, self.epoch):
            answer(Rejected(why))
        elif takes_epoch_of(table, self.table) and not self.world.mutation.hides_taken_epochs:
            answer(Rejected("another table has this epoch", epoch_taken=True))
        else:
            answer(self._apply(table))

    def _apply(self, table: Table) -> int:
        before = self.epoch
        epoch = self.links.apply(table)
        if epoch == table.epoch and epoch != before:
            self.world.checks.took_table(self, before, self.table, table)
            self.table = table
            if not before:
                self.announce()
        return epoch

    def poll_table(self) -> None:
        """Looks for a newer table in Redis, unless it is looking."""
        if self._polling:
            return
        self._polling = True

        def read(table: Table | None) -> None:
            self._polling = False
            new = table is not None and table.epoch > self.epoch and not epoch_violation(table.epoch, self.epoch)
            if new and table is not None and fits(OWN_CLASS, table.numerics_class):
                self._apply(table)

        self.world.redis.ask(self, lambda redis: redis.state.table, read)

    def _follow(self) -> None:
        self.poll_table()
        self.after(LATER_S if self.epoch else FIRST_S, self._follow)

    # attempts

    def accept(self, stream: Stream, boot_id: str) -> None:
        """A router has opened a stream of attempts to the run that it knows."""
        stream.receive[1] = lambda message: self._take(stream, message)
        stream.ended[1] = lambda why: self._stream_ended(stream)
        self._streams[stream] = None
        if self.draining or boot_id != self.boot_id:
            stream.close(1, DRAINING if self.draining else OTHER_RUN)

    def _stream_ended(self, stream: Stream) -> None:
        self._streams.pop(stream, None)
        for its, attempt_id in [one for one in self._of_stream if one[0] is stream]:
            self._cancel(its, attempt_id)

    def _take(self, stream: Stream, message: Begin | Cancel) -> None:
        if isinstance(message, Cancel):
            self._cancel(stream, message.attempt_id)
            return
        if self.draining or self.stands_still:
            why = DRAINING if self.draining else NOT_BEGUN
            stream.send(1, News(message.attempt_id, message.number, ending=Ending("unavailable", message=why)))
            return
        self._begin(stream, message)

    def _begin(self, stream: Stream, message: Begin) -> None:
        place = stream, message.attempt_id
        sampling = Sampling(seed=message.seed, max_tokens=message.max_tokens)
        emitted = message.emitted_ids

        def emit(tokens: list[TokenOut], ending: Ending | None) -> None:
            if place in self._of_stream:
                if ending is not None:
                    del self._of_stream[place]
                stream.send(1, News(message.attempt_id, message.number, tuple(tokens), ending))

        found = self._recent.find(message.resume_key, emitted, message.resume_known)
        keeping = self._recent.follow(message.resume_key, emitted, found, emit)
        asked = Request(
            request_id=message.request_id,
            prompt_ids=message.prompt_ids,
            emitted_ids=(*emitted, *(one.id for one in found)),
            sampling=sampling,
        )
        longest = len(message.prompt_ids) + message.max_tokens
        sequence = Sequence(next(self._keys), asked, frozenset({EOS}), longest, keeping)
        self.open[sequence.key] = sequence
        self._of_stream[place] = sequence.key
        self.scheduler.submit(sequence)
        if found:
            emit(found, None)
        if sequence.ending is not None:  # a replay may be complete already
            self._end(sequence, [], sequence.ending)
        self._go_on()

    def _cancel(self, stream: Stream, attempt_id: int) -> None:
        key = self._of_stream.pop((stream, attempt_id), None)
        if key is not None and key in self.open:
            self._end(self.open[key], [], Ending("cancelled"))
            self._go_on()

    def _end(self, sequence: Sequence, tokens: list[TokenOut], ending: Ending) -> None:
        del self.open[sequence.key]
        if ending.reason != "cancelled" or not self.world.mutation.leaks_pages:
            self.scheduler.remove(sequence)
        sequence.emit(tokens, ending)

    def _end_all(self, why: str) -> None:
        for sequence in list(self.open.values()):
            self._end(sequence, [], Ending("unavailable", message=why))

    def drain(self) -> None:
        """Hands its sequences back, and goes."""
        if self.alive and not self.draining:
            self.draining = True
            self._end_all(DRAINING)
            for stream in self._streams:
                stream.close(1, DRAINING)
            self.announce()
            self.after(0.05, self.leave)

    def freeze(self, still: bool) -> None:
        """The engine's thread stands still, and the worker has noticed; or it goes on again."""
        if not self.alive:
            return
        self.stands_still = still
        if still:
            self.world.checks.died(self.boot_id)
            self._end_all(STANDS_STILL)
        else:
            self._go_on()
        self.announce()

    # steps

    def _go_on(self) -> None:
        """Begins a step unless one is under way."""
        if self._step or self.stands_still or not self.epoch:
            if not self.epoch and self.open:
                self.after(FIRST_S, self._go_on)
            return
        self._step = self.scheduler.schedule()
        if self._step:
            self.after(STEP_S, self._exchange_rows)

    def _exchange_rows(self) -> None:
        rows = [self._row(chunk.sequence) for chunk in self._step if chunk.samples and chunk.sequence.key in self.open]
        self._exchange = Exchange(self, rows, self._finish_step)
        self._exchange.start()

    def _row(self, sequence: Sequence) -> Row:
        return Row(sequence.sampling.seed, sequence.generated, sequence.ids[-1])

    def _finish_step(self, outputs: dict[Row, list[int]] | None) -> None:
        chunks, self._step, self._exchange = self._step, [], None
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.key not in self.open:
                continue  # it has been cancelled, or has gone elsewhere
            if outputs is None:
                self._end(sequence, [], Ending("unavailable", message="no answer for experts"))
                continue
            self.scheduler.computed(sequence, chunk.length)
            if chunk.samples:
                self._append(sequence, outputs[self._row(sequence)])
        self._go_on()

    def _append(self, sequence: Sequence, outputs: list[int]) -> None:
        row = self._row(sequence)
        sequence.append(token(row, outputs))
        out = [TokenOut(row.place, sequence.ids[-1], 0)]
        if sequence.ending is not None:
            self._end(sequence, out, sequence.ending)
        else:
            sequence.emit(out, None)

    def count_late(self, answer: Answer) -> None:
        """A mutation: what was given up is added to whatever is being summed up."""
        if self._exchange is not None:
            self._exchange.count_late(answer)
