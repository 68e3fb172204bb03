"""Which workers live: by their leases while Redis can be read, and by their connections always."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from grpc import ChannelConnectivity

from services.membership.record import WorkerRecord

REFUSED_S = 0.2  # a connection that cannot be made for so long, on an address that worked


@dataclass(slots=True)
class _Known:
    record: WorkerRecord
    leased: bool = True
    refused_since: float | None = None
    gone: bool = False  # said dead; only a connection that works again unsays it


class WorkerRegistry:
    """One role's workers. A worker is dead when its connection is refused, or when its lease is gone and it is silent.

    A lease does not keep a killed worker alive, and a lost lease does not kill one: Redis may have been wiped.
    """

    def __init__(
        self,
        state: Callable[[WorkerRecord], ChannelConnectivity],
        probe: Callable[[WorkerRecord], Awaitable[bool]],
    ) -> None:
        self._state, self._probe = state, probe
        self._known: dict[str, _Known] = {}

    def see(self, records: Sequence[WorkerRecord]) -> None:
        """What Redis says now. While it is away, nobody calls this, and the last list holds."""
        leased = {record.worker_id for record in records}
        for known in self._known.values():
            known.leased = known.record.worker_id in leased
        for record in records:
            known_ = self._known.get(record.worker_id)
            if known_ is None or known_.record.boot_id != record.boot_id:
                self._known[record.worker_id] = _Known(record)
            else:
                known_.record = record

    def known(self) -> list[WorkerRecord]:
        """Everybody who may still be heard of, the dead with a lease included."""
        return [known.record for known in self._known.values()]

    async def alive(self, now: float) -> list[WorkerRecord]:
        """The living at time `now` (any clock that advances), by id."""
        for worker_id in list(self._known):
            known = self._known[worker_id]
            self._look(known, now)
            silent = known.gone if known.leased else known.gone or not await self._answers(known)
            if silent and not known.leased:
                del self._known[worker_id]
        return [known.record for _, known in sorted(self._known.items()) if not known.gone]

    def _look(self, known: _Known, now: float) -> None:
        state = self._state(known.record)
        if state is ChannelConnectivity.READY:
            known.refused_since, known.gone = None, False
        elif state is ChannelConnectivity.TRANSIENT_FAILURE or known.refused_since is not None:
            known.refused_since = now if known.refused_since is None else known.refused_since
            known.gone = known.gone or now - known.refused_since >= REFUSED_S

    async def _answers(self, known: _Known) -> bool:
        return self._state(known.record) is ChannelConnectivity.READY and await self._probe(known.record)
