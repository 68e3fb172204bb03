"""The epochs that a router knows of, and those that it may give while it leads. Pure: no clock, no I/O.

Epochs only grow. A router that begins to lead starts above all that it can see, so that workers reject whoever led
before it, whatever Redis has lost. What it begins with is in Redis before it gives an epoch: another one that takes
over while no table of the term is out does not give the same epochs to other tables. Where Redis loses that, routers
remember it.
"""

from __future__ import annotations

from collections.abc import Iterable

from caracal_proto.placement_pb2 import Table

from services.membership.checks import MAX_EPOCH
from services.membership.numerics_class import fits
from services.membership.record import WorkerRecord
from services.router.placement.tables import TERM, next_term

SPARE = 100  # epochs of a term that are left when its leader begins the next one
MOST_UNSEEN = 100  # terms in a row without a table: what says that it is further ahead is nobody's of ours


class Terms:
    """One router's view. `highest`: the highest epoch anywhere."""

    def __init__(self) -> None:
        self.highest = 0
        self._began_after: int | None = None  # the epoch before the first that it may give
        self._given = 0  # the last one that it gave
        self.stored_term = 0  # the first epoch of the last term that any router has begun, as Redis has it
        self._last_term = 0  # the highest of those that it has had
        self._leased: dict[str, int] = {}  # the highest epoch in the leases of each class

    def see(self, records: Iterable[WorkerRecord]) -> None:
        """Takes the leases of all workers."""
        self._leased = {}
        for record in records:
            self._leased[record.numerics_class] = max(record.epoch, self._leased.get(record.numerics_class, 0))
        self.highest = max(self.highest, self.leased_of(""))

    def found(self, epoch: int) -> None:
        """Takes the highest epoch that workers have said themselves."""
        if epoch < MAX_EPOCH:
            self.highest = max(self.highest, epoch)

    def leased_of(self, numerics_class: str) -> int:
        """The highest epoch in the leases of a class; of all while there is none."""
        return max((epoch for its, epoch in self._leased.items() if fits(its, numerics_class)), default=0)

    def believes(self, stored: Table, own_epoch: int) -> bool:
        """Takes a table that Redis has; returns whether it is newer than the own one, and no worker has a newer one."""
        self.highest = max(self.highest, stored.epoch)
        return stored.epoch > own_epoch and stored.epoch >= self.leased_of(stored.numerics_class)

    @property
    def began(self) -> int:
        """The first epoch of the own term; 0 before the first."""
        return self._began_after + 1 if self._began_after is not None else 0

    def saw(self, term: int) -> None:
        """Takes the first epoch of the last term, as Redis has it; 0 where it has none."""
        self.stored_term = term
        if self._is_believable(term):
            self._last_term = max(self._last_term, term)

    def must_begin(self, *, leads: bool, leading: bool, own_epoch: int, numerics_class: str) -> bool:
        """Whether a router that has the leader's lease has to begin a term, if it was `leading` already, too.

        One without a table may have begun before it knew a worker, whose epoch is above its own first one then. Another
        one may have led since, without a table. And a term has an end, where the next leader's begins.
        """
        overtaken = self._is_believable(self.stored_term) and self.stored_term > self.began
        beyond = self.leased_of(numerics_class) > (own_epoch or self._began_after or 0)
        used_up = self.highest >= self.began + TERM - SPARE
        return leads and (not leading or beyond or overtaken or used_up)

    def begin(self) -> int:
        """Begins a term; returns its first epoch."""
        unseen = max(term for term in (0, self._last_term, self.stored_term) if self._is_believable(term))
        self.highest = self._began_after = self._given = next_term(max(self.highest, unseen)) - 1
        return self.highest + 1

    def _is_believable(self, term: int) -> bool:
        return term <= self.highest + MOST_UNSEEN * TERM

    def next_epoch(self, own_epoch: int) -> int:
        """Gives an epoch of the own term, each once. `own_epoch`: of the table that the router has.

        A leader that was overtaken and does not know it yet may have seen the next one's epochs: those are not its to
        go on from. Workers reject what it gives.
        """
        own = own_epoch if self.began <= own_epoch < next_term(max(1, self.began)) else 0
        self._given = max(self._given, own) + 1
        self.highest = max(self.highest, self._given)
        return self._given
