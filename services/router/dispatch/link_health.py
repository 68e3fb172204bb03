"""How the links to expert workers do: how fast they are, so which calls are overdue, and which workers are suspects.

A thread of its own reads latencies twice a second, and starts the probes of suspects; the engine's thread only looks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

import structlog

from services.process.thread_name import name_this_thread
from services.router.dispatch.call_latency import NEVER, HedgeBudget, HedgeOptions, Latencies, size_of
from services.router.dispatch.errors import DispatchError
from services.router.dispatch.links import Scatterer
from services.router.dispatch.suspects import HEALTHY_S, LOOK_S, Suspects
from services.router.dispatch.table import Key

log = structlog.get_logger(__name__)

READ_S = 0.5  # between two readings of latencies
CLOSE_S = 1.0


class LinkHealth:
    """One attention worker's. `probe` makes a call to a worker over a connection of its own, and returns the seconds
    that it took, or raises DispatchError; `renew` replaces the session with a worker that was a suspect since then;
    `on_change` is called when the suspects are others than before."""

    def __init__(
        self,
        options: HedgeOptions,
        scatterer: Scatterer | None,
        probe: Callable[[Key], float],
        renew: Callable[[Key, float], None],
        on_change: Callable[[], None],
    ) -> None:
        self.options = options
        self.replicated = False  # some expert of the table has several replicas
        self._scatterer, self._probe, self._renew, self._on_change = scatterer, probe, renew, on_change
        self._lock = threading.Lock()
        self._suspects: Suspects[Key] = Suspects()
        self._latencies: Latencies[Key] = Latencies(options)
        self._budget = HedgeBudget(options.budget)
        self._measured: deque[tuple[Key, int, float]] = deque(maxlen=4096)  # by this process's Python, until read
        self._answered: dict[Key, int] = {}
        self._limits: Mapping[Key, list[float]] = {}
        self._avoided: frozenset[Key] = frozenset()
        self._wake, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None

    @property
    def suspects(self) -> frozenset[Key]:
        """The workers that are avoided."""
        return self._avoided

    @property
    def hedges(self) -> bool:
        """Whether overdue calls may be sent to other workers as well: to suspects, where there is no other."""
        return self.options.quantile > 0 and self.replicated

    @property
    def knows_latencies(self) -> bool:
        """Whether calls of some worker can be overdue."""
        return any(limit < NEVER for limits in self._limits.values() for limit in limits)

    def overdue_after(self, key: Key, assignments: int) -> float:
        """Seconds after which a call with so many assignments is overdue; NEVER when nothing is known."""
        limits = self._limits.get(key)
        return limits[size_of(assignments)] if limits else NEVER

    def measured(self, key: Key, assignments: int, seconds: float) -> None:
        """Takes the latency of a call that no native session has made."""
        self._measured.append((key, assignments, seconds))
        self._answered[key] = self._answered.get(key, 0) + 1

    def may_hedge(self, calls: int) -> bool:
        """Takes one more hedge from the budget, if there is any. `calls`: messages that were sent until now."""
        return self._budget.take(calls, 1)

    def overdue(self, key: Key) -> None:
        """Takes a call that another worker has answered first."""
        answered = self._answered.get(key, 0) + (self._scatterer.answered(key) if self._scatterer else 0)
        with self._lock:
            changed = self._suspects.overdue(key, answered, time.monotonic())
        if changed:
            log.warning("calls to an expert worker are overdue; it is avoided", worker_id=key[0])
            self._changed()

    def failed(self, key: Key) -> None:
        """Takes a call that has failed."""
        with self._lock:
            changed = self._suspects.failed(key, time.monotonic())
        if changed:
            self._changed()

    def answered(self, key: Key) -> None:
        """Takes a call that was answered."""
        if key not in self._suspects.keys:
            return
        with self._lock:
            changed = self._suspects.answered(key, time.monotonic())
        if changed:
            self._changed()

    def keep_only(self, keys: Collection[Key]) -> None:
        """Forgets all other workers."""
        with self._lock:
            self._suspects.keep_only(keys)
            self._latencies.keep_only(keys)
            self._answered = {key: count for key, count in self._answered.items() if key in keys}
            self._avoided = self._suspects.keys

    def start(self) -> None:
        """Starts the thread, unless it runs."""
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="link-health", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _changed(self) -> None:
        self._avoided = self._suspects.keys
        self.start()
        self._wake.set()
        self._on_change()

    def _run(self) -> None:
        name_this_thread("link-health")  # or it has the name of whoever starts it
        read_at = 0.0
        while not self._closed:
            if time.monotonic() >= read_at:
                try:
                    self._read()
                except Exception as error:
                    log.error("latencies of expert workers could not be read", exc_info=error)
                read_at = time.monotonic() + READ_S
            with self._lock:
                due = self._suspects.due(time.monotonic())
            for key in due:
                threading.Thread(target=self._probe_once, args=(key,), name=f"probe-{key[0]}", daemon=True).start()
            self._wake.wait(LOOK_S if self.suspects else READ_S)
            self._wake.clear()

    def _read(self) -> None:
        """Takes the new latencies in, and says from when on calls are overdue."""
        native = self._scatterer.take_latencies() if self._scatterer else []
        with self._lock:
            for key, assignments, seconds in native:
                self._latencies.add(key, assignments, seconds)
            while self._measured:
                self._latencies.add(*self._measured.popleft())
            self._limits = limits = self._latencies.overdue_after()
        if self._scatterer is not None:
            self._scatterer.set_limits(limits, self.replicated)

    def _probe_once(self, key: Key) -> None:
        try:
            seconds = self._probe(key)
            healthy = seconds <= max(HEALTHY_S, self.overdue_after(key, 1))
            why = f"a probe took {seconds:.3f} s"
        except DispatchError as error:
            healthy, why = False, str(error)
        except Exception as error:
            healthy, why = False, repr(error)
            log.error("a probe of an expert worker failed", worker_id=key[0], exc_info=error)
        with self._lock:
            since_s = self._suspects.since(key)
            changed = self._suspects.probed(key, healthy, time.monotonic())
        log.debug("an expert worker was probed", worker_id=key[0], healthy=healthy, result=why)
        if changed:
            log.info("an expert worker is avoided no longer", worker_id=key[0], result=why)
            self._renew(key, since_s)
            self._changed()
