"""Computes a share of the calls to expert workers again, at other workers, and compares the rows bit for bit.

That is done by a thread of its own, after the answers have been used, over gRPC sessions of its own: no step waits for
it. A worker that is outvoted twice is convicted: it is avoided here, and whoever decides on the placement is notified.
Legend: N assignments of one worker, D hidden.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from caracal_kernels.plan_rows import Plan
from torch import Tensor

from services.membership.strikes import WINDOW_S, Strikes, outvoted
from services.process.thread_name import name_this_thread
from services.router.dispatch.errors import DispatchError
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.kept_call import Answered, KeptCall, Numbers
from services.router.dispatch.links import Connect, ExpertRequest, Link
from services.router.dispatch.shadow_share import ShadowShare
from services.router.dispatch.table import Key, RoutingTable

log = structlog.get_logger(__name__)

MOST_WAITING = 4  # calls; what comes beyond is not computed again
BUSY, BUSY_CLOSELY = 0.02, 0.5  # of a core, that the thread takes at most
LONGEST_REST_S = 1.0
ANSWER_S = 5.0
CLOSELY_S = 60.0  # for which all calls of a worker are looked at after it was found wrong
LOOK_S = 1.0
IDLE_S = 30.0  # without a call, before sessions are closed
CLOSE_S = 1.0


def nobody(key: Key, reason: str) -> None:
    """The `convict` of who has nobody to notify."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOptions:
    """`share` of the calls, 0 = none. `busy`: of a core, that computing them again takes at most. `convict` is called
    with a worker that is wrong, and why, by another thread."""

    share: float = 0.0
    busy: float = BUSY
    connect: Connect = GrpcLink
    convict: Callable[[Key, str], None] = nobody


@dataclass(slots=True)
class ShadowStats:
    """Sums since the process started."""

    calls: int = 0  # that were made to compare
    assignments: int = 0  # that were compared
    differences: int = 0  # calls with rows that differ
    undecided: int = 0  # of these, where nobody could say who is wrong
    unanswered: int = 0  # calls that brought nothing
    failures: int = 0  # layers' calls that could not be compared
    dropped: int = 0  # layers' calls that were not computed again, since others wait
    convicted: int = 0  # workers


class ShadowCalls:
    """One attention worker's. The engine's thread calls `offer`; any thread the rest.

    `table`: the newest one. `on_change` is called when a worker was convicted.
    """

    def __init__(
        self, options: ShadowOptions, table: Callable[[], RoutingTable], on_change: Callable[[], None]
    ) -> None:
        self.share, self.stats = ShadowShare(options.share), ShadowStats()
        self.convicted: frozenset[Key] = frozenset()
        self._options, self._table, self._on_change = options, table, on_change
        self._waiting: deque[KeptCall] = deque()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._links: dict[Key, Link] = {}
        self._used_at = 0.0
        self._strikes: Strikes[Key] = Strikes()
        self._watched: dict[Key, float] = {}  # who is looked at closely, until when
        self._all_until = 0.0  # until when everybody is

    def offer(self, keys: tuple[Key, ...], step: int, layer: int, h_TD: Tensor, plan: Plan, y_AD: Tensor) -> None:
        """Takes a layer's call to the workers `keys` and its replies; drops it while others wait."""
        if len(self._waiting) >= MOST_WAITING:
            self.stats.dropped += 1
            return
        self._waiting.append(KeptCall.of(keys, step, layer, h_TD, plan, y_AD))
        self._start()
        self._wake.set()

    def look_closely(self, seconds: float) -> None:
        """Has every call computed again for so long, as far as the thread gets: somewhere, something was wrong."""
        self._all_until = time.monotonic() + seconds
        self._start()
        self._wake.set()

    def keep_only(self, keys: Collection[Key]) -> None:
        """Forgets all other workers."""
        wanted = frozenset(keys)
        self.convicted &= wanted
        self._strikes.keep_only(wanted)

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _start(self) -> None:
        if self._thread is None and self.share.usual and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="shadow-calls", daemon=True)
            self._thread.start()

    @property
    def waiting(self) -> int:
        """Calls that are to be computed again, or are now."""
        return len(self._waiting)

    @torch.inference_mode()
    def _run(self) -> None:
        name_this_thread("shadow-calls")  # or it has the name of the engine's, which starts it
        while not self._closed.is_set():
            self._watch(time.monotonic())
            if self._waiting:
                began_s = time.thread_time()
                try:
                    self._check(self._waiting[0])
                except Exception as error:
                    self.stats.failures += 1
                    log.error("a call could not be computed again", exc_info=error)
                    self._closed.wait(LOOK_S)
                self._waiting.popleft()
                self._rest(time.thread_time() - began_s)
                continue
            if time.monotonic() > self._used_at + IDLE_S:
                self._close_links(self._links.keys())
            self._wake.wait(LOOK_S)
            self._wake.clear()
        self._close_links(self._links.keys())

    def _rest(self, took_s: float) -> None:
        """Keeps within the share of a core, however many calls are offered."""
        busy = self._options.busy
        share = max(busy, BUSY_CLOSELY) if self._watched or self._all_until > time.monotonic() else busy
        self._closed.wait(min(LONGEST_REST_S, took_s * (1 / share - 1)))

    def _watch(self, now: float) -> None:
        self._watched = {key: until for key, until in self._watched.items() if until > now}
        self.share.raise_to_all(bool(self._watched) or self._all_until > now)

    def _check(self, call: KeptCall) -> None:
        table = self._table()
        self._close_links(self._links.keys() - set(table.keys))
        self._used_at = time.monotonic()
        only = self._watched if self._all_until < self._used_at else {}
        replicas = table.layers[call.layer].lists()
        for part in call.parts():
            if not only or part.key in only:
                self._check_part(table, replicas, call, part)

    def _check_part(self, table: RoutingTable, replicas: list[list[int]], call: KeptCall, part: Answered) -> None:
        """Compares one worker's rows with those of other workers; with its own where nobody else has the expert."""
        by_other: dict[int, list[int]] = {}
        for place, expert in enumerate(part.expert_N.tolist()):
            others = self._others(table, replicas[expert], {part.key})
            if not others and part.key in table.keys:
                others = [table.keys.index(part.key)]
            if others:
                by_other.setdefault(others[(call.step + expert) % len(others)], []).append(place)
        for other, places in by_other.items():
            token_N, expert_N = part.token_N[places], part.expert_N[places]
            again_ND = self._ask(table, other, call, token_N, expert_N)
            if again_ND is None:
                continue
            self.stats.assignments += len(places)
            used_ND = part.y_ND[places].cpu()
            differs_N = (_bits(used_ND) != _bits(again_ND)).any(1)
            if bool(differs_N.any()):
                self.stats.differences += 1
                worst = int(differs_N.nonzero()[0])
                self._judge(
                    table,
                    call,
                    (int(token_N[worst]), int(expert_N[worst])),
                    (part.key, _bytes(used_ND[worst])),
                    (table.keys[other], _bytes(again_ND[worst])),
                )

    def _others(self, table: RoutingTable, replicas: Collection[int], without: Collection[Key]) -> list[int]:
        return [one for one in replicas if table.keys[one] not in without and table.keys[one] not in self.convicted]

    def _judge(
        self,
        table: RoutingTable,
        call: KeptCall,
        at: tuple[int, int],
        used: tuple[Key, bytes],
        again: tuple[Key, bytes],
    ) -> None:
        """Finds out who of two is wrong about one row, `at` (token, expert)."""
        token, expert = at
        keys = {used[0], again[0]}
        third = [table.keys[one] for one in self._others(table, table.layers[call.layer].lists()[expert], keys)]
        votes = outvoted(used, again, third)
        try:
            key = next(votes)
            while True:
                key = votes.send(self._opinion(table, key, call, token, expert))
        except StopIteration as end:
            wrong: Key | None = end.value
        where = {"layer": call.layer, "expert": expert}
        now = time.monotonic()
        if wrong is None:
            self.stats.undecided += 1
            log.warning("two expert workers differ, and nobody knows which is wrong", workers=sorted(keys), **where)
            self._watched |= dict.fromkeys(keys, now + CLOSELY_S)
        elif self._strikes.add(wrong, now):
            self._convict(wrong, f"rows of expert {expert} of layer {call.layer} and others within {WINDOW_S:g} s")
        else:
            log.warning("an expert worker gave wrong rows; it is looked at closely", worker_id=wrong[0], **where)
            self._watched[wrong] = now + CLOSELY_S
        self._watch(now)

    def _convict(self, key: Key, what: str) -> None:
        self._watched.pop(key, None)
        if key in self.convicted:
            return
        self.convicted |= {key}
        self.stats.convicted += 1
        reason = f"it gave other bits than its replicas, or than itself, for {what}"
        log.error("an expert worker computes wrongly; it is avoided", worker_id=key[0], reason=reason)
        self._on_change()
        self._options.convict(key, reason)

    def _opinion(self, table: RoutingTable, key: Key, call: KeptCall, token: int, expert: int) -> bytes | None:
        if key not in table.keys:
            return None
        one = np.array([token], np.int32), np.array([expert], np.int32)
        y_1D = self._ask(table, table.keys.index(key), call, *one)
        return None if y_1D is None else _bytes(y_1D[0])

    def _ask(
        self,
        table: RoutingTable,
        worker: int,
        call: KeptCall,
        token_N: Numbers,
        expert_N: Numbers,
    ) -> Tensor | None:
        """Has a worker compute assignments; returns the rows, [N, D], on the CPU. None when it does not."""
        tokens, row_N = np.unique(token_N, return_inverse=True)
        x_RD = call.h_TD[torch.from_numpy(tokens.astype(np.int64)).to(call.h_TD.device)]
        row, expert = (torch.from_numpy(each.astype(np.int32)) for each in (row_N, expert_N))
        key = table.keys[worker]
        if key not in self._links:
            self._links[key] = self._options.connect(table.workers[worker])
        request = ExpertRequest(call.step, call.layer, table.epoch, ANSWER_S, x_RD, row, expert)
        self.stats.calls += 1
        try:
            return self._links[key].dispatch(request).result(ANSWER_S).y_AD.cpu()
        except (DispatchError, TimeoutError):  # it has left, or has another table
            self.stats.unanswered += 1
            self._close_links({key})
            return None

    def _close_links(self, keys: Collection[Key]) -> None:
        for key in list(keys):
            if (link := self._links.pop(key, None)) is not None:
                link.close()


def _bits(rows_ND: Tensor) -> Tensor:
    return rows_ND.contiguous().view(torch.uint8)


def _bytes(row_D: Tensor) -> bytes:
    return _bits(row_D).numpy().tobytes()
