"""Faults of the protocol itself, each switched on by a test: the simulation has to find them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from caracal_proto.placement_pb2 import Table

from services.expert_worker.placement_state import PlacementState
from services.membership.pulse import Pulse
from services.membership.record import WorkerRecord
from services.router.placement.bare_redis import BareRedis
from services.router.placement.tables import chosen_class
from services.router.placement.terms import Terms
from services.router.requests.progress import GenerationProgress, IndexedToken

TokenT = TypeVar("TokenT", bound=IndexedToken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """What is otherwise than in the real code; nothing by default."""

    name: str = "none"
    progress: Callable[[], GenerationProgress] | None = None
    forgets_offset: bool = False
    placement_state: type[PlacementState] | None = None
    takes_any_table: bool = False
    terms: Callable[[], Terms] | None = None
    bare_redis: Callable[[], BareRedis] | None = None
    reads_wall_clock: bool = False
    counts_late_replies: bool = False
    mixes_classes: bool = False
    leaks_pages: bool = False
    hides_terms: bool = False
    believes_leases: bool = False
    counts_a_death_often: bool = False
    chosen_class: Callable[[Table | None, Sequence[WorkerRecord], Sequence[WorkerRecord]], str] | None = None
    believes_links: bool = False
    excuses_epochs: bool = False  # two tables of one epoch are none of what is looked for
    hides_taken_epochs: bool = False
    believes_damaged: bool = False
    forgets_convictions: bool = False
    alarms_are_deaths: bool = False


class AnyIndex(GenerationProgress):
    """Takes whatever comes next for the next token."""

    def accept(self, attempt: int, tokens: Sequence[TokenT]) -> Sequence[TokenT]:
        self.emitted_ids.extend(token.id for token in tokens)
        return tokens


class AnyEpoch(PlacementState):
    """Takes tables of leaders that lead no more."""

    def _check_epoch(self, epoch: int) -> None:
        return


def any_class(table: Table | None, experts: Sequence[WorkerRecord], attention: Sequence[WorkerRecord]) -> str:
    """Leaves the table's class as soon as none of its expert workers is seen."""
    there = table is not None and any(one.numerics_class == table.numerics_class for one in experts)
    return chosen_class(table if there else None, experts, attention)


class NoTerm(Terms):
    """Goes on where the last leader, as far as it has the table, seems to have been."""

    def begin(self) -> int:
        self._given = self.highest
        return self.highest + 1


class AnyTerm(Terms):
    """Goes on from the highest epoch that it has seen, whoever gave it."""

    def next_epoch(self, own_epoch: int) -> int:
        self.highest = max(self.highest, own_epoch) + 1
        return self.highest


class ForgottenTerms(Terms):
    """Knows of other leaders' terms only what Redis has now."""

    def saw(self, term: int) -> None:
        self.stored_term = self._last_term = term


class NoWait(BareRedis):
    """Begins a term by what a Redis that has lost everything has now."""

    def saw(self, pulse: Pulse, now: float) -> None:
        self.unavailable()


class WaitFromFirstLook(BareRedis):
    """Waits in an empty Redis from when it has first seen it, whoever has the lease."""

    def saw(self, pulse: Pulse, now: float) -> None:
        self._since = None if not pulse.bare else now if self._since is None else self._since


NONE = Mutation()
MUTATIONS = {
    one.name: one
    for one in (
        Mutation(name="a retry forgets the offset", progress=AnyIndex, forgets_offset=True),
        Mutation(name="workers take tables of any epoch", placement_state=AnyEpoch, takes_any_table=True),
        Mutation(name="a leader believes leases alone", believes_leases=True, bare_redis=NoWait),
        Mutation(name="a leader begins no term of its own", terms=NoTerm),
        Mutation(name="a leader goes on from another's epochs", terms=AnyTerm),
        Mutation(name="the term of a leader without a table is hidden", hides_terms=True),
        Mutation(name="a term that Redis loses is forgotten", terms=ForgottenTerms, bare_redis=NoWait),
        Mutation(name="a leader begins in a Redis that has lost everything", bare_redis=NoWait),
        Mutation(name="a leader waits without the lease", bare_redis=WaitFromFirstLook),
        Mutation(
            name="a second table of an epoch counts as taken",
            terms=ForgottenTerms,
            bare_redis=NoWait,
            excuses_epochs=True,
            hides_taken_epochs=True,
        ),
        Mutation(name="silence is judged by the wall clock", reads_wall_clock=True),
        Mutation(name="the late reply to a hedged call counts", counts_late_replies=True),
        Mutation(name="experts of another class are placed", mixes_classes=True),
        Mutation(name="a cancelled attempt keeps its pages", leaks_pages=True),
        Mutation(name="a link that was reset is a death", believes_links=True),
        Mutation(name="a run dies more than once", counts_a_death_often=True),
        Mutation(name="what was damaged on its way is believed", believes_damaged=True),
        Mutation(name="nobody looks who is in quarantine", forgets_convictions=True),
        Mutation(name="a worker that is late has died", alarms_are_deaths=True),
        Mutation(name="a class that nobody can use is chosen", chosen_class=any_class),
    )
}
