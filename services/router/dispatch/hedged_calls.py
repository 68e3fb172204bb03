"""Waits for the replies to one plan's calls; a call that is overdue is sent to other workers as well, and whoever
answers first counts. It changes no bit: an expert's reply is a function of the row and the weights.

Legend: T tokens, K choices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_futures
from typing import NamedTuple

import torch

from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.links import ExpertOutput
from services.router.dispatch.send import RoutedBatch, SentBatch, plan_and_send
from services.router.dispatch.stats import LayerStats
from services.router.dispatch.table import Key

SLICE_S = 0.002  # between two looks at calls of both kinds, which no single call can wait for
LOOK_S = 0.01  # between two looks at whether a call that could not be hedged can be now


class Hedge(NamedTuple):
    """A call's rows, as they were sent to other workers."""

    worker: int  # whose call it is: the index among the plan's workers
    sent: SentBatch


class HedgedCalls:
    """The calls of one plan."""

    def __init__(
        self, pool: ExpertWorkerPool, batch: RoutedBatch, sent: SentBatch, timeout_s: float, stats: LayerStats
    ) -> None:
        self._pool, self._batch, self._sent, self._stats = pool, batch, sent, stats
        self._timeout_s = timeout_s
        self._hedges: dict[int, SentBatch] = {}  # that are on their way, by worker
        self._failed: set[Key] = set()  # whom hedges went to that have brought nothing

    def wait(self) -> list[Hedge]:
        """Returns the hedges that were answered before what they stand for, which is given up then.

        Calls that are in time have ended when it returns; of the others some may be pending, and nothing is to be
        gained by hedges. A call that cannot be hedged now, since no other worker has its experts, or all that have are
        overdue as well, or the budget is used up, is looked at again.
        """
        if not self._is_overdue():
            return []
        won: list[Hedge] = []
        until_s = time.perf_counter() + self._timeout_s
        while pending := self._pending(self._sent, {hedge.worker for hedge in won}):
            now, self._pool.looks = time.perf_counter(), self._pool.looks + 1
            overdue = [worker for worker, at_s in pending.items() if at_s <= now]
            for worker in overdue:
                if worker not in self._hedges and (hedge := self._send(worker, overdue)) is not None:
                    self._hedges[worker] = hedge
            if first := self._first_answered(pending):
                won.append(first)
                continue
            running = list(self._hedges.values())
            others = [at_s for worker, at_s in pending.items() if worker not in self._hedges and math.isfinite(at_s)]
            if now >= until_s or not (running or others):
                break
            look_at = [now + LOOK_S if at_s <= now else at_s for at_s in others]
            self._wait_for_one([self._sent, *running], min([until_s, *look_at]) - now)
        return won

    def _is_overdue(self) -> bool:
        """Waits until every call has ended or one is overdue; those of which nothing is known are not waited for."""
        sent = self._sent
        if sent.scatter is not None and not sent.scatter.wait_in_time(self._timeout_s):
            return True
        for part, future in sent.calls:
            seconds = self._pool.health.overdue_after(part.key, part.assignments)
            if math.isfinite(seconds):
                wait_for_futures([future], max(0.0, sent.sent_s + seconds - time.perf_counter()))
                if not future.done():
                    return True
        return False

    def _pending(self, sent: SentBatch, without: Collection[int] = ()) -> dict[int, float]:
        """The workers whose calls are pending, and when each is overdue."""
        found = dict(sent.scatter.pending()) if sent.scatter is not None else {}
        for part, future in sent.calls:
            if not future.done():
                seconds = self._pool.health.overdue_after(part.key, part.assignments)
                found[sent.keys.index(part.key)] = sent.sent_s + seconds
        return {worker: at_s for worker, at_s in found.items() if worker not in without}

    def _send(self, worker: int, overdue: Collection[int]) -> SentBatch | None:
        """Sends one call's rows to workers that are not overdue, and to suspects where there is no other; None when
        they have not all its experts, or when the budget is used up."""
        pool, batch, sent = self._pool, self._batch, self._sent
        part = sent.part(worker)
        chosen_TK = (sent.reply_index_TK >= part.first) & (sent.reply_index_TK < part.first + part.assignments)
        table = pool.table
        banned = {sent.keys[one] for one in overdue} | self._failed | pool.convicted
        left = table.layers[batch.layer].without(table.places(banned))
        left = left.avoiding(table.places(pool.health.suspects))
        replicas = left.lists()
        if not all(replicas[expert] for expert in set(batch.ids_TK[chosen_TK].tolist())):
            return None
        if not pool.health.may_hedge(pool.messages_sent()):
            return None
        ids_TK = torch.where(chosen_TK, batch.ids_TK, batch.num_ffn)
        again = plan_and_send(pool, table, left, batch, ids_TK, self._timeout_s)
        self._stats.hedges += again.messages
        self._stats.count_sent(again)
        if batch.span is not None:
            batch.span.hedged(again.messages, part.key[0])
        return again

    def _first_answered(self, pending: Collection[int]) -> Hedge | None:
        """A hedge that was answered while its call, now given up, is pending; others that have ended are dropped."""
        for worker, sent in list(self._hedges.items()):
            if worker in pending and self._pending(sent):
                continue
            del self._hedges[worker]
            if worker not in pending:
                continue
            if _all_well(sent):
                if self._sent.scatter is not None:
                    self._sent.scatter.give_up(worker)
                self._stats.hedges_won += 1
                self._pool.health.overdue(self._sent.keys[worker])
                return Hedge(worker, sent)
            self._failed.update(key for key, count in zip(sent.keys, sent.counts, strict=True) if count)
        return None

    def _wait_for_one(self, batches: Sequence[SentBatch], timeout_s: float) -> None:
        """Waits until one more call has ended."""
        scatters = [each.scatter for each in batches if each.scatter is not None and each.scatter.pending()]
        futures = [future for each in batches for _, future in each.calls if not future.done()]
        if scatters:
            scatters[0].wait_for_one(scatters[1:], min(timeout_s, SLICE_S) if futures else timeout_s)
        elif futures:
            wait_for_futures(futures, timeout_s, FIRST_COMPLETED)


def _all_well(sent: SentBatch) -> bool:
    return (sent.scatter is None or sent.scatter.all_well) and all(_is_well(future) for _, future in sent.calls)


def _is_well(future: Future[ExpertOutput]) -> bool:
    return future.exception() is None and future.result().finite
