"""What is between processes: calls whose messages are late, held back, sent twice or cut off. Streams are in
`streams.py`.

Calls are gRPC's, so over TCP: a link that lets nothing pass holds messages back until it does again. Calls overtake
each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import TypeVar

from simulation.timeline import Act, Process, Timeline

FASTEST_S, SLOWEST_S = 0.0002, 0.002  # of a message on its way
TWICE = 0.3  # of the calls of a process whose calls may arrive twice

Reply = TypeVar("Reply")
Way = tuple[str, str]


class Network:
    """`blocked`: (from, to) that let nothing pass. `twice`: processes whose calls may arrive twice; `slow`: seconds
    more for each message from or to one; `flips`: bits that are still to be flipped in messages from or to one."""

    def __init__(self, timeline: Timeline, rng: Random) -> None:
        self.timeline, self._rng = timeline, rng
        self.blocked: set[Way] = set()
        self.twice: set[str] = set()
        self.slow: dict[str, float] = {}
        self.flips: dict[str, int] = {}
        self._held: defaultdict[Way, list[Act]] = defaultdict(list)
        self._connected: set[Way] = set()  # boot ids
        self._serving: defaultdict[str, dict[int, Act]] = defaultdict(dict)  # calls at a run, which its death ends
        self._calls = 0

    def passes(self, one: Process, other: Process) -> bool:
        """Whether messages pass in both directions."""
        return (one.name, other.name) not in self.blocked and (other.name, one.name) not in self.blocked

    def connected(self, one: Process, other: Process, boot_id: str) -> bool | None:
        """Whether the connection to a run works as far as `one` knows; None while it is being made."""
        key = one.boot_id, boot_id
        if not self.passes(one, other):
            return True if key in self._connected else None
        if not other.alive or other.boot_id != boot_id:
            self._connected.discard(key)
            return False
        if not other.stopped:
            self._connected.add(key)
        return True if key in self._connected else None

    def block(self, *ways: Way) -> None:
        self.blocked.update(ways)

    def unblock(self, *ways: Way) -> None:
        self.blocked.difference_update(ways)
        for way in ways:
            for act in self._held.pop(way, ()):
                self.timeline.after(self.delay(*way), act)

    def delay(self, source: str, to: str) -> float:
        slow = self.slow.get(source, 0.0) + self.slow.get(to, 0.0) if self.slow else 0.0
        return self._rng.uniform(FASTEST_S, SLOWEST_S) + slow

    def damages(self, source: str, to: str) -> bool:
        """Whether a message arrives otherwise than it was sent, which takes one of the flips."""
        for name in (source, to) if self.flips else ():
            if self.flips.get(name, 0):
                self.flips[name] -= 1
                return True
        return False

    def carry(self, source: str, to: str, act: Act) -> None:
        """Lets `act` happen at the other end, once the way is free and a message's time is over."""
        if (source, to) in self.blocked:
            self._held[source, to].append(act)
        else:
            self.timeline.after(self.delay(source, to), act)

    def call(
        self,
        caller: Process,
        callee: Process,
        serve: Callable[[Callable[[Reply | None], None]], None],
        done: Callable[[Reply | None], None],
        timeout_s: float,
    ) -> None:
        """Calls `serve` at the callee with what takes its reply. `done` gets that once, or None: in time nothing came,
        nobody listens, or the callee has died."""
        run, target = caller.runs, callee.runs
        self._calls += 1
        number, there, back = self._calls, callee.name, caller.name
        open_ = True

        def end(reply: Reply | None) -> None:
            nonlocal open_
            if open_:
                open_ = False
                done(reply)

        def answer(reply: Reply | None) -> None:
            self._serving[callee.boot_id].pop(number, None)
            if open_:
                self.carry(there, back, lambda: caller.do(run, lambda: end(reply)))

        def arrive() -> None:
            if not callee.alive or callee.runs != target:
                answer(None)
            else:
                self._serving[callee.boot_id][number] = lambda: answer(None)
                callee.do(target, lambda: serve(answer))

        for _ in range(1 + (bool(self.twice & {there, back}) and self._rng.random() < TWICE)):
            self.carry(back, there, arrive)
        caller.after(timeout_s, lambda: end(None))

    def died(self, boot_id: str) -> None:
        """The kernel of a process that was killed ends its connections."""
        for refuse in list(self._serving.pop(boot_id, {}).values()):
            refuse()
