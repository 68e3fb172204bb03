"""A layer's expert answers on their way home, and what is done until every one of them is there.

Legend: T tokens, K slots, D hidden, P (row, expert) pairs in the order they were asked for, all workers and retries.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from caracal_kernels import combine
from caracal_proto.tensors import raw_bytes
from torch import Tensor

from services.router.dispatch.expert_workers import Fleet
from services.router.dispatch.links import (
    Answer,
    BadReply,
    DispatchError,
    ExpertsUnavailable,
    StaleEpoch,
    WorkerUnavailable,
)
from services.router.dispatch.plan import Flight, Gated, Launched, launch
from services.router.dispatch.retry import Grievance, aggrieved, choose
from services.router.dispatch.stats import LayerStats
from services.router.dispatch.table import Key


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for one answer, and for all of a layer once something has failed."""

    call_s: float
    expert_s: float


class Pending:
    """A MoE output between `start` and `finish`. Everything between the two overlaps with it."""

    def __init__(self, fleet: Fleet, gated: Gated, launched: Launched, patience: Patience, stats: LayerStats) -> None:
        self._fleet, self._gated, self._patience, self._stats = fleet, gated, patience, stats
        self._launched = launched
        self._home_TK = launched.home_TK
        self._answers: list[Tensor] = []  # in pair order; NaN where an answer never came and a later one stands in
        self._grievances: dict[Key, Grievance] = {}
        self._doubted: dict[tuple[int, int], bytes] = {}  # (token, expert) -> a non-finite row that was sent back
        self._sent_s = time.perf_counter()
        self._home = False

    def finish(self, residual_TD: Tensor) -> Tensor:
        """residual + MoE(h): waits until every answer is there.

        Raises ExpertsUnavailable when some expert's answer could not be had within the wait, Refused when workers keep
        calling the call malformed.
        """
        self.wait()
        gated, answers = self._gated, self._answers
        y_PD = answers[0] if len(answers) == 1 else torch.cat(answers) if answers else gated.h_TD[:0]
        return combine(y_PD, self._home_TK, gated.weights_TK, gated.zero_T, gated.h_TD, residual_TD)

    def wait(self) -> None:
        """Returns when every answer is there; `finish` does the same and combines."""
        if self._home:
            return
        began_s = time.perf_counter()
        if not self._collect(self._launched, 0) or not self._launched.complete:
            self._recover()
        self._home = True
        ended_s = time.perf_counter()
        self._stats.exposed_s += ended_s - began_s
        self._stats.round_trip_s += ended_s - max(began_s, self._sent_s)  # taking the last answer in

    def _collect(self, launched: Launched, base: int) -> bool:
        """Takes in what one plan brought home; false when some of it is missing."""
        arrived_s = self._sent_s
        complete = True
        for flight in launched.flights:
            answer = self._answer(flight, launched.epoch, base)
            if answer is None:
                complete = False
                self._answers.append(self._gated.h_TD.new_full((flight.pairs, self._gated.h_TD.shape[1]), torch.nan))
                continue
            arrived_s = max(arrived_s, answer.arrived_s)
            self._answers.append(answer.y_PD.to(self._gated.h_TD.device))
            self._stats.bytes_received += answer.y_PD.nbytes
        self._stats.round_trip_s += arrived_s - self._sent_s
        self._sent_s = arrived_s
        return complete

    def _answer(self, flight: Flight, epoch: int, base: int) -> Answer | None:
        """One worker's answer; None, and its slots marked as missing, when it has none."""
        try:
            answer = flight.future.result(self._patience.call_s)
            self._check(flight, answer, base)
        except TimeoutError:
            late = WorkerUnavailable(f"{flight.key[0]} has not answered within {self._patience.call_s:g} s")
            self._complain(flight, epoch, base, late, hung=True)
        except DispatchError as error:
            self._complain(flight, epoch, base, error)
        else:
            self._fleet.trust(flight.key)
            return answer
        return None

    def _check(self, flight: Flight, answer: Answer, base: int) -> None:
        """A non-finite answer is believed when a second computation gives the same bits: then it is the model's own."""
        if answer.finite:
            return
        rows = [raw_bytes(row) for row in answer.y_PD.cpu()]
        slots = self._slots(flight, base)
        ids = self._gated.ids_TK[slots].tolist()
        bad = False
        for (token, _), expert, home in zip(slots.nonzero().tolist(), ids, self._home_TK[slots].tolist(), strict=True):
            row = home - base - flight.first
            if not torch.isfinite(answer.y_PD[row]).all():
                bad |= self._doubted.get((token, expert)) != rows[row]
                self._doubted[token, expert] = rows[row]
        if bad:
            raise BadReply(f"{flight.key[0]} sent back rows that are not finite")

    def _slots(self, flight: Flight, base: int) -> Tensor:
        """[T, K] bool: the slots that the flight was to answer."""
        first = base + flight.first
        return (self._home_TK >= first) & (self._home_TK < first + flight.pairs)

    def _complain(self, flight: Flight, epoch: int, base: int, error: DispatchError, hung: bool = False) -> None:
        self._home_TK[self._slots(flight, base)] = -2
        grievance = self._grievances[flight.key] = aggrieved(self._grievances.get(flight.key), epoch, error)
        self._stats.stale_refusals += isinstance(error, StaleEpoch)
        if grievance.fatal:
            raise error
        if isinstance(error, WorkerUnavailable):
            self._fleet.doubt(flight.key, hung)

    def _recover(self) -> None:
        """Asks again, elsewhere or under a newer table, until no slot is missing. What has come home stays."""
        began_s = time.monotonic()
        attempt = 0
        while bool((missing_TK := self._home_TK < -1).any()):
            table, layer = self._fleet.table, self._gated.layer
            replicas = table.layers[layer]
            experts = set(self._gated.ids_TK[missing_TK].tolist())
            against = {w: self._grievances[key] for w, key in enumerate(table.keys) if key in self._grievances}
            choice = choose(against, table.epoch, replicas.lists(), experts, attempt)
            if choice.pause_s:
                waited_s = time.monotonic() - began_s
                if waited_s >= self._patience.expert_s:
                    raise ExpertsUnavailable(layer, sorted(experts), waited_s, self._last_error())
                attempt += 1
                if self._fleet.wait_newer(table.epoch, min(choice.pause_s, self._patience.expert_s - waited_s)):
                    continue
            again = launch(
                self._fleet,
                table,
                replicas.without(choice.banned),
                self._gated,
                torch.where(missing_TK, self._gated.ids_TK, self._gated.num_ffn),
                self._patience.call_s,
            )
            self._stats.retries += len(again.flights)
            self._merge(again)

    def _merge(self, again: Launched) -> None:
        """Adds a retry's plan to the first one and takes in what it brings."""
        base = sum(map(len, self._answers))
        self._home_TK = torch.where(again.home_TK >= 0, again.home_TK + base, self._home_TK)
        self._stats.count_sent(again.flights)
        self._collect(again, base)

    def _last_error(self) -> DispatchError | None:
        return next((grievance.error for grievance in reversed(self._grievances.values())), None)
