"""Tracks which workers are alive: by their leases while Redis can be read, and by their connections always.

For the leader only; `requests.attention_workers` decides for itself which workers get requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from grpc import ChannelConnectivity

from services.membership.record import WorkerRecord

FEW = 8  # workers looked at without a pause
PROBES = 32  # at a time: those of a machine that is gone answer none, and each takes its time limit
DISCONNECTED_S = 0.2  # a worker that cannot be reconnected to for so long is dead


@dataclass(slots=True)
class Known:
    """A worker, and what has been seen of it."""

    record: WorkerRecord
    leased: bool = True
    disconnected_since: float | None = None
    dead: bool = False  # until a connection works again


class WorkerRegistry:
    """One role's workers. A worker is dead when its connection fails, or when its lease is gone and no probe succeeds,
    and as good as dead while it says itself that it stands still.

    A lease alone does not keep a killed worker alive, and a lost lease alone does not kill one: Redis may have been
    wiped.
    """

    def __init__(
        self,
        state: Callable[[WorkerRecord], ChannelConnectivity],
        probe: Callable[[WorkerRecord], Awaitable[bool]],
    ) -> None:
        self._state, self._probe = state, probe
        self._known: dict[str, Known] = {}

    def see(self, records: Sequence[WorkerRecord]) -> None:
        """Takes the records that Redis has now. It is not called while Redis is unavailable: the last list stays."""
        leased = {record.worker_id for record in records}
        for known in self._known.values():
            known.leased = known.record.worker_id in leased
        for record in records:
            known_ = self._known.get(record.worker_id)
            if known_ is None or known_.record.boot_id != record.boot_id:
                self._known[record.worker_id] = Known(record)
            else:
                known_.record = record

    @property
    def has_suspects(self) -> bool:
        """Whether a worker is about to be taken for dead, so that `alive` is to be asked again soon."""
        return any(not known.dead and (known.disconnected_since or not known.leased) for known in self._known.values())

    def known(self) -> list[WorkerRecord]:
        """Returns every tracked worker, including dead ones that still have a lease."""
        return [known.record for known in self._known.values()]

    async def alive(self, now: float) -> list[WorkerRecord]:
        """Returns the workers that are alive at time `now` (any clock that advances), by id."""
        for number, known in enumerate(list(self._known.values()), 1):
            if number % FEW == 0:
                await asyncio.sleep(0)  # the first time, each one opens a connection
            self.check_connection(known, now)
        few = asyncio.Semaphore(PROBES)
        unleased = self.unleased()
        answers = await asyncio.gather(*(self._answers(known, few) for known in unleased))
        for known, answered in zip(unleased, answers, strict=True):
            self.answered(known, answered)
        return self.living()

    def tracked(self) -> list[Known]:
        """Every tracked worker, with what is known of it."""
        return list(self._known.values())

    def unleased(self) -> list[Known]:
        """The workers without a lease, which are to be probed; one whose connection does not work has not answered."""
        return [known for known in self._known.values() if not known.leased]

    def answered(self, known: Known, answered: bool) -> None:
        """Takes what a probe has found: who has neither a lease nor an answer is tracked no more."""
        worker_id = known.record.worker_id
        if not answered and self._known.get(worker_id) is known and not known.leased:  # it may be back meanwhile
            del self._known[worker_id]

    def living(self) -> list[WorkerRecord]:
        """The workers that are alive, as of the last looks at them, by id."""
        living = (known for _, known in sorted(self._known.items()) if not known.dead)
        return [known.record for known in living if not known.record.stands_still]

    def check_connection(self, known: Known, now: float) -> None:
        """Looks at the connection to a worker."""
        state = self._state(known.record)
        if state is ChannelConnectivity.READY:
            known.disconnected_since, known.dead = None, False
        elif state is ChannelConnectivity.TRANSIENT_FAILURE or known.disconnected_since is not None:
            known.disconnected_since = now if known.disconnected_since is None else known.disconnected_since
            known.dead = known.dead or now - known.disconnected_since >= DISCONNECTED_S

    async def _answers(self, known: Known, few: asyncio.Semaphore) -> bool:
        if known.dead or self._state(known.record) is not ChannelConnectivity.READY:
            return False
        async with few:
            return await self._probe(known.record)
