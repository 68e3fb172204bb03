"""A layer's expert replies that are still awaited, and the retries until every one of them has arrived.

Legend: T tokens, K choices, D hidden, A (row, expert) assignments in the order they were sent, over all workers and
retries.
"""

from __future__ import annotations

import time
from collections.abc import Set
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from caracal_kernels import combine
from caracal_proto.tensors import raw_bytes
from torch import Tensor

from services.router.dispatch.errors import (
    CallDamaged,
    DispatchError,
    ExpertsUnavailable,
    InvalidReply,
    StaleEpoch,
    WorkerUnavailable,
)
from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.hedged_calls import Hedge, HedgedCalls
from services.router.dispatch.links import ExpertOutput, Scatter
from services.router.dispatch.retry import PeerFailure, choose_retry, record_failure
from services.router.dispatch.send import PlannedCall, RoutedBatch, SentBatch, plan_and_send
from services.router.dispatch.stats import LayerStats
from services.router.dispatch.table import Key
from services.router.dispatch.waiting import result_of


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait: for one reply, and for all replies of a layer once a call has failed."""

    call_s: float
    expert_s: float


class MoEHandle:
    """A MoE output between `start` and `finish`. What the caller computes in between overlaps with it."""

    def __init__(
        self,
        pool: ExpertWorkerPool,
        batch: RoutedBatch,
        sent: SentBatch,
        timeouts: Timeouts,
        stats: LayerStats,
        times: tuple[float, float] | None = None,
    ) -> None:
        """`times`, of time.perf_counter: when the rows were sent, and since when the caller waits; None = now, and
        since `wait` is called."""
        self._pool, self._batch, self._timeouts, self._stats = pool, batch, timeouts, stats
        pool.row = batch.h_TD.shape[1], batch.h_TD.dtype
        self._sent = sent
        self._reply_index_TK = sent.reply_index_TK
        self._outputs: list[Tensor] = []  # in the order of A; NaN for a failed call, whose retry has rows of its own
        self._failures: dict[Key, PeerFailure] = {}
        self._non_finite: dict[tuple[int, int], bytes] = {}  # (token, expert) -> the non-finite row of a reply
        self._sent_s, self._waits_since_s = times or (time.perf_counter(), 0.0)  # 0: it does not wait yet
        self._complete = False

    def finish(self, residual_TD: Tensor) -> Tensor:
        """Waits until every reply has arrived, then returns residual + MoE(h), [T, D].

        Raises ExpertsUnavailable when some expert's reply did not come within the wait.
        """
        self.wait()
        batch, outputs = self._batch, self._outputs
        y_AD = outputs[0] if len(outputs) == 1 else torch.cat(outputs) if outputs else batch.h_TD[:0]
        if self._pool.shadow.share.takes(batch.step, batch.layer):
            self._keep(y_AD)
        return combine(y_AD, self._reply_index_TK, batch.weights_TK, batch.zero_T, batch.h_TD, residual_TD)

    def _keep(self, y_AD: Tensor) -> None:
        """Has a call that went well computed again by other workers, later."""
        sent, batch = self._sent, self._batch
        if sent.messages and not self._failures and self._reply_index_TK is sent.reply_index_TK:
            self._pool.shadow.offer(sent.keys, batch.step, batch.layer, batch.h_TD, sent.plan, y_AD)

    def wait(self) -> None:
        """Returns when every reply has arrived; raises what `finish` does."""
        if self._complete:
            return
        if self._batch.span is None:
            self._wait()
        else:
            with self._batch.span.waiting():
                self._wait()

    def _wait(self) -> None:
        began_s = self._waits_since_s or time.perf_counter()
        if not self._collect(self._sent, 0) or not self._sent.complete:
            self._recover()
        self._complete = True
        ended_s = time.perf_counter()
        self._stats.exposed_s += ended_s - began_s
        self._stats.round_trip_s += ended_s - max(began_s, self._sent_s)  # taking the last reply in

    def _collect(self, sent: SentBatch, base: int) -> bool:
        """Takes in the replies to one plan's calls; returns False when one is missing."""
        arrived_s, complete, h_TD = self._sent_s, True, self._batch.h_TD
        until_s = time.perf_counter() + self._timeouts.call_s
        scatter, hedges = sent.scatter, self._hedges_of(sent)
        replaced = {hedge.worker for hedge in hedges}
        if scatter is not None:
            complete = self._take(scatter, sent, base, replaced, until_s)
            arrived_s = max(arrived_s, scatter.arrived_s)
        for part, future in sent.calls:
            if replaced and sent.keys.index(part.key) in replaced:
                output = None
            else:
                output = self._output(part, future, sent, base, until_s)
                complete &= output is not None
            rows_AD = (
                output.y_AD.to(h_TD.device)
                if output is not None
                else h_TD.new_full((part.assignments, h_TD.shape[1]), torch.nan)
            )
            if output is not None:
                arrived_s = max(arrived_s, output.arrived_s)
                self._stats.bytes_received += rows_AD.nbytes
            if scatter is None:
                self._outputs.append(rows_AD)
            else:
                scatter.y_AD[part.first : part.first + part.assignments] = rows_AD
        if scatter is not None:
            self._outputs.append(scatter.y_AD.to(h_TD.device))
        self._stats.round_trip_s += arrived_s - self._sent_s
        self._sent_s = arrived_s
        for hedge in hedges:
            complete &= self._replace(sent.part(hedge.worker), base, hedge.sent)
        return complete

    def _hedges_of(self, sent: SentBatch) -> list[Hedge]:
        """Waits as long as hedges may help; returns those that came first."""
        if not (self._pool.hedges and sent.messages):
            return []
        return HedgedCalls(self._pool, self._batch, sent, self._timeouts.call_s, self._stats).wait()

    def _replace(self, call: PlannedCall, base: int, hedge: SentBatch) -> bool:
        """Takes in what other workers have answered in place of one; returns False when something is missing."""
        choices_TK, hedge_base = self._choices(call, base), sum(map(len, self._outputs))
        self._reply_index_TK = torch.where(choices_TK, hedge.reply_index_TK + hedge_base, self._reply_index_TK)
        return self._collect(hedge, hedge_base)

    def _take(self, scatter: Scatter, sent: SentBatch, base: int, replaced: Set[int], until_s: float) -> bool:
        """Takes in the replies to what was sent together; returns False when one is missing that is not replaced."""
        failures, not_finite = scatter.wait(max(0.0, until_s - time.perf_counter()))
        failed = {failure.worker for failure in failures}
        for worker in replaced:
            part = sent.part(worker)
            scatter.y_AD[part.first : part.first + part.assignments] = torch.nan
        for worker, error, late in failures:
            part = sent.part(worker)
            scatter.y_AD[part.first : part.first + part.assignments] = torch.nan
            self._record(part, sent.epoch, base, error, hung=late)
        for worker in not_finite:
            part = sent.part(worker)
            y_AD = scatter.y_AD[part.first : part.first + part.assignments]
            try:
                self._check(part, ExpertOutput(y_AD, False, scatter.arrived_s), base)
            except DispatchError as error:
                failed.add(worker)
                self._record(part, sent.epoch, base, error)
        elsewhere = failed.union(scatter.without, replaced)
        taken = sent.assignments - sum(sent.counts[worker] for worker in elsewhere)
        self._stats.bytes_received += taken * scatter.y_AD.shape[1] * scatter.y_AD.itemsize
        if self._pool.health.suspects:
            for worker, count in enumerate(sent.counts):
                if count and worker not in elsewhere:
                    self._pool.mark_healthy(sent.keys[worker])
        return not failed

    def _output(
        self, call: PlannedCall, future: Future[ExpertOutput], sent: SentBatch, base: int, until_s: float
    ) -> ExpertOutput | None:
        """Returns one call's reply; None, with its choices marked as missing, when the call has failed."""
        epoch = sent.epoch
        try:
            output = result_of(future, max(0.0, until_s - time.perf_counter()))
            self._check(call, output, base)
        except TimeoutError:
            late = WorkerUnavailable(f"{call.key[0]} has not answered within {self._timeouts.call_s:g} s")
            self._record(call, epoch, base, late, hung=True)
        except DispatchError as error:
            self._record(call, epoch, base, error)
        else:
            self._pool.mark_healthy(call.key)
            self._pool.health.measured(call.key, call.assignments, output.arrived_s - sent.sent_s)
            return output
        return None

    def _check(self, call: PlannedCall, output: ExpertOutput, base: int) -> None:
        """Raises InvalidReply for rows that are not finite.

        A row is accepted once a second computation has given the same bits: then it is the model's own.
        """
        if output.finite:
            return
        rows = [raw_bytes(row) for row in output.y_AD.cpu()]
        choices_TK = self._choices(call, base)
        ids = self._batch.ids_TK[choices_TK].tolist()
        indices = self._reply_index_TK[choices_TK].tolist()
        differs = False
        for (token, _), expert, index in zip(choices_TK.nonzero().tolist(), ids, indices, strict=True):
            row = index - base - call.first
            if not torch.isfinite(output.y_AD[row]).all():
                differs |= self._non_finite.get((token, expert)) != rows[row]
                self._non_finite[token, expert] = rows[row]
        if differs:
            raise InvalidReply(f"{call.key[0]} sent back rows that are not finite")

    def _choices(self, call: PlannedCall, base: int) -> Tensor:
        """Returns a mask, [T, K] bool, of the choices that the call is to answer."""
        first = base + call.first
        return (self._reply_index_TK >= first) & (self._reply_index_TK < first + call.assignments)

    def _record(self, call: PlannedCall, epoch: int, base: int, error: DispatchError, hung: bool = False) -> None:
        self._reply_index_TK[self._choices(call, base)] = -2
        self._failures[call.key] = record_failure(self._failures.get(call.key), epoch, error)
        self._stats.stale_epoch_rejections += isinstance(error, StaleEpoch)
        bad_link = isinstance(error, CallDamaged) and self._pool.is_bad_link(call.key)
        if isinstance(error, WorkerUnavailable) or bad_link:
            self._pool.mark_suspect(call.key, hung or bad_link)

    def _recover(self) -> None:
        """Asks again, elsewhere or under a newer table, until no choice is missing. Answers that arrived are kept."""
        began_s = time.monotonic()
        attempt = 0
        while bool((missing_TK := self._reply_index_TK < -1).any()):
            self._pool.looks += 1
            table, layer = self._pool.table, self._batch.layer
            replicas = table.layers[layer]
            experts = set(self._batch.ids_TK[missing_TK].tolist())
            failures = {w: self._failures[key] for w, key in enumerate(table.keys) if key in self._failures}
            retry = choose_retry(failures, table.epoch, replicas.lists(), experts, attempt)
            if retry.pause_s:
                waited_s = time.monotonic() - began_s
                if waited_s >= self._timeouts.expert_s:
                    raise ExpertsUnavailable(layer, sorted(experts), waited_s, self._last_error())
                attempt += 1
                if self._pool.wait_newer(table.epoch, min(retry.pause_s, self._timeouts.expert_s - waited_s)):
                    continue
            again = plan_and_send(
                self._pool,
                table,
                replicas.without(retry.banned),
                self._batch,
                torch.where(missing_TK, self._batch.ids_TK, self._batch.num_ffn),
                self._timeouts.call_s,
            )
            self._stats.retries += again.messages
            if self._batch.span is not None:
                self._batch.span.retried(again.messages, self._last_error())
            self._merge(again)

    def _merge(self, again: SentBatch) -> None:
        """Adds a retry's plan to the first one and takes in its replies."""
        base = sum(map(len, self._outputs))
        self._reply_index_TK = torch.where(again.reply_index_TK >= 0, again.reply_index_TK + base, self._reply_index_TK)
        self._stats.count_sent(again)
        self._collect(again, base)

    def _last_error(self) -> DispatchError | None:
        return next((failure.error for failure in reversed(self._failures.values())), None)
