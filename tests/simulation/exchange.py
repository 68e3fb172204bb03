"""One layer of one step: rows to expert workers, and their outputs back. Whom to ask again is `choose_retry`'s to say.

The order of things is that of `MoEHandle` and `HedgedCalls`: all calls of a plan have to end before what is missing is
asked for again; the first answer to a call or its hedge counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from simulation.expert_links import Routes, Sent
from simulation.expert_worker import Answer
from simulation.oracle import Row, chosen, mixed

from services.router.dispatch.errors import CallDamaged, DispatchError, WorkerUnavailable
from services.router.dispatch.retry import PeerFailure, choose_retry, record_failure
from services.router.dispatch.table import Key

if TYPE_CHECKING:
    from simulation.attention_worker import AttentionWorker

EXPERT_WAIT_S = 30.0
Wanted = tuple[Row, int]


class Exchange:
    """`done` gets every row's outputs; None when some expert has not answered for too long."""

    def __init__(
        self,
        worker: AttentionWorker,
        rows: Sequence[Row],
        done: Callable[[dict[Row, list[int]] | None], None],
    ) -> None:
        self._worker, self._links, self._done = worker, worker.links, done
        self._rows = rows
        self._wanted: list[Wanted] = [(row, expert) for row in rows for expert in chosen(row)]
        self._outputs: dict[Wanted, int] = {}
        self._failures: dict[Key, PeerFailure] = {}
        self._attempt, self._began = 0, 0.0
        self._pending: dict[int, Sent] = {}  # calls of the plan, by number
        self._over = False
        self._late = 0  # 0 but under a mutation

    def start(self) -> None:
        self._send(self._links.routes, self._links.view(), self._wanted)

    def _send(self, routes: Routes, replicas: Sequence[Sequence[int]], wanted: Sequence[Wanted]) -> None:
        sent = self._calls(routes, replicas, wanted)
        self._pending |= {one.number: one for one in sent}
        for one in sent:
            if one.overdue_at < self._worker.now + 60.0:  # as long as any call lasts
                self._worker.after(one.overdue_at - self._worker.now, partial(self._overdue, one))
        if not sent:
            self._collected()

    def _calls(self, routes: Routes, replicas: Sequence[Sequence[int]], wanted: Sequence[Wanted]) -> list[Sent]:
        parts: defaultdict[int, list[Wanted]] = defaultdict(list)
        for row, expert in wanted:
            if options := replicas[expert]:
                parts[options[mixed(expert, row.place) % len(options)]].append((row, expert))
        links = self._links
        return [links.send(routes.keys[at], routes.epoch, tuple(part), self) for at, part in sorted(parts.items())]

    def _overdue(self, sent: Sent) -> None:
        """Sends a call that is overdue to other workers as well, if they have its experts and the budget allows it."""
        if self._over or sent.number not in self._pending or sent.hedges is not None:
            return
        now, links = self._worker.now, self._links
        late = {one.key for one in self._pending.values() if one.overdue_at <= now}
        keys = links.routes.keys
        left = [[at for at in workers if keys[at] not in late] for workers in links.view()]
        sent.hedges = []
        if all(left[expert] for _, expert in sent.wanted) and links.may_hedge():
            sent.hedges = self._calls(links.routes, left, sent.wanted)
            for hedge in sent.hedges:
                hedge.hedge_of = sent

    def take(self, sent: Sent, answer: Answer | None) -> None:
        if self._over:
            return
        error: DispatchError | None = WorkerUnavailable("no answer") if answer is None else answer.error
        if sent.hedge_of is not None:
            self._take_hedge(sent, sent.hedge_of, answer, error)
        else:
            for hedge in sent.hedges or ():
                self._links.give_up(hedge)
            self._pending.pop(sent.number, None)
            if error is not None:
                self._record(sent, error)
            elif answer is not None:
                self._take_outputs(sent, answer)
            if not self._pending:
                self._collected()

    def _take_hedge(self, hedge: Sent, late: Sent, answer: Answer | None, error: DispatchError | None) -> None:
        if answer is None or error is not None:  # the call itself is still awaited
            for other in late.hedges or ():
                self._links.give_up(other)
            return
        hedge.answer = answer
        answers = [(one, one.answer) for one in late.hedges or () if one.answer is not None]
        if late.number in self._pending and len(answers) == len(late.hedges or ()):
            for one, given in answers:
                self._take_outputs(one, given)
            del self._pending[late.number]
            self._links.give_up(late)
            self._links.overdue(late.key)
            if not self._pending:
                self._collected()

    def _take_outputs(self, sent: Sent, answer: Answer) -> None:
        self._links.answered(sent)
        for wanted, output in zip(sent.wanted, answer.outputs, strict=True):
            self._worker.world.checks.used_row(sent.key, wanted, answer, output)
            self._outputs[wanted] = output

    def count_late(self, answer: Answer) -> None:
        self._late += sum(answer.outputs)

    def _record(self, sent: Sent, error: DispatchError) -> None:
        self._failures[sent.key] = record_failure(self._failures.get(sent.key), sent.epoch, error)
        bad_link = isinstance(error, CallDamaged) and self._links.is_bad_link(sent.key)
        if isinstance(error, WorkerUnavailable) or bad_link:
            self._links.failed(sent.key)

    def _collected(self) -> None:
        if self._over:
            return
        missing = [one for one in self._wanted if one not in self._outputs]
        if missing:
            self._began = self._began or self._worker.now
            self._recover(missing)
            return
        self._over = True
        found = {row: [self._outputs[row, expert] for expert in chosen(row)] for row in self._rows}
        if self._late and found:
            found[self._rows[0]].append(self._late)
        self._done(found)

    def _recover(self, missing: list[Wanted]) -> None:
        """As `MoEHandle._recover`: asks again, elsewhere or under a newer table."""
        routes, now = self._links.routes, self._worker.now
        failures = {at: self._failures[key] for at, key in enumerate(routes.keys) if key in self._failures}
        replicas = [list(workers) for workers in routes.replicas]
        retry = choose_retry(failures, routes.epoch, replicas, {expert for _, expert in missing}, self._attempt)

        def go_on(newer: bool) -> None:
            if self._over:
                return
            if newer:
                self._recover(missing)
            else:
                left = [[at for at in workers if at not in retry.banned] for workers in replicas]
                self._send(routes, left, missing)

        if not retry.pause_s:
            go_on(False)
            return
        waited = now - self._began
        if waited >= EXPERT_WAIT_S:
            self._over = True
            self._done(None)
            return
        self._attempt += 1
        self._links.wait_newer(routes.epoch, min(retry.pause_s, EXPERT_WAIT_S - waited), go_on)
