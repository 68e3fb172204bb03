"""Workers whose join failed: how long each gets no experts, longer each time, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.membership.record import WorkerRecord

FIRST_S, LAST_S = 2.0, 60.0
SHOWN, SHOWN_CHARACTERS = 3, 400


class JoinBackoffs:
    """By boot id: a worker that restarts begins anew."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}  # (until, seconds)
        self._reasons: dict[str, str] = {}  # of the last join, unless it went well since

    def __bool__(self) -> bool:
        """Whether the join of any worker that is known has ever failed."""
        return bool(self._until)

    def fail(self, record: WorkerRecord, reason: str, now: float) -> float:
        """Takes a failed join; returns for how many seconds the worker gets no experts."""
        _, last_s = self._until.get(record.boot_id, (0.0, FIRST_S / 2))
        for_s = min(LAST_S, 2 * last_s)
        self._until[record.boot_id] = now + for_s, for_s
        self._reasons[record.boot_id] = reason
        return for_s

    def joined(self, records: Sequence[WorkerRecord]) -> None:
        for record in records:
            self._reasons.pop(record.boot_id, None)

    def waiting(self, now: float) -> frozenset[str]:
        """The boot ids of workers that get no experts yet."""
        return frozenset(boot_id for boot_id, (until, _) in self._until.items() if until > now)

    def keep_only(self, boot_ids: Collection[str]) -> None:
        """Forgets the other workers."""
        for known in (self._until, self._reasons):
            for gone in known.keys() - set(boot_ids):
                del known[gone]

    def reasons(self, records: Sequence[WorkerRecord]) -> str:
        """Says why joins of these workers failed; only the last ones, each cut short."""
        failed = [(r.worker_id, self._reasons[r.boot_id]) for r in records if r.boot_id in self._reasons]
        return "".join(
            f"; {worker_id} could not take its experts: {why[:SHOWN_CHARACTERS]}" for worker_id, why in failed[-SHOWN:]
        )
