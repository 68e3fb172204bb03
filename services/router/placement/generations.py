"""Which numerics classes have a table of their own, and what their workers wait for while one replaces another. Pure.

An upgrade that changes the class replaces workers one by one. Until the old class is gone it has a table beside the
new one: old attention workers leave first, by finishing or by handing over what they have, and old experts last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.membership.class_hint import ClassHint
from services.membership.numerics_class import is_of
from services.membership.record import WorkerRecord
from services.membership.worker_order import ordinal

NAMED = 3  # workers in a reason; the others are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassState:
    """One class. `experts`, `attention`: its workers that are alive, with those that drain.

    `has_table`: its experts have all been placed. `complete`: they are all loaded now, on workers that are alive.
    `possible`: its workers can hold all of them.
    """

    numerics_class: str
    experts: tuple[WorkerRecord, ...]
    attention: tuple[WorkerRecord, ...]
    has_table: bool
    complete: bool
    possible: bool


def served_beside(main: str, experts: Iterable[WorkerRecord], attention: Iterable[WorkerRecord]) -> list[str]:
    """The classes besides `main` that could serve: both roles have workers of it that stay. In order of their names."""
    theirs = {r.numerics_class for r in attention if not r.draining and not r.refused}
    both = {r.numerics_class for r in experts if not r.draining and any(is_of(one, r.numerics_class) for one in theirs)}
    return sorted(both - {main})


def hints_of(
    served: Sequence[ClassState], experts: Iterable[WorkerRecord], attention: Iterable[WorkerRecord], needed: int
) -> tuple[ClassHint, ...]:
    """What is to be known of each class; nothing while there is one. `served`: those with a placement, oldest first."""
    experts, attention = list(experts), list(attention)
    names = {state.numerics_class for state in served} | {r.numerics_class for r in experts}
    names |= {r.numerics_class for r in attention if not any(is_of(r.numerics_class, name) for name in names)}
    states = list(served)
    for name in sorted(names - {state.numerics_class for state in served}):
        own, its = ([r for r in role if is_of(r.numerics_class, name)] for role in (experts, attention))
        states.append(
            ClassState(
                numerics_class=name,
                experts=tuple(own),
                attention=tuple(its),
                has_table=False,
                complete=False,
                possible=True,
            )
        )
    found = []
    for state in states if len(states) > 1 else ():
        others = [other for other in states if other is not state]
        found.append(ClassHint(state.numerics_class, ends(state, others), waits_for(state, others, needed)))
    return tuple(found)


def ends(state: ClassState, others: Iterable[ClassState]) -> bool:
    """Whether sequences of the class can go on no more: its experts are not all there and will not be again.

    Alone, a class waits for its workers to come back; beside another, theirs are what comes.
    """
    gone = not state.experts or not (state.complete or state.possible)
    return gone and any(other.experts for other in others)


def is_released(state: ClassState, others: Iterable[ClassState]) -> bool:
    """Whether nobody needs the class's experts: it has no attention worker, and another class serves."""
    return not state.attention and any(other.has_table and other.attention for other in others)


def waits_for(state: ClassState, others: Sequence[ClassState], needed: int) -> str:
    """Why the class's new expert workers are not to count as ready yet, so that no further one of the other class is
    replaced; empty when they are. `needed`: experts of the model."""
    for other in others:
        serves = other.attention and other.complete
        if not serves or can_lose_one([r.capacity for r in other.experts if not r.draining], needed):
            continue
        if not state.attention:
            return f"no attention worker of its numerics class {state.numerics_class} is there yet"
        if not state.has_table:
            if state.possible:
                return "its numerics class has no placement yet"
            continue  # its other workers can only come in place of those
        return f"{named(other.attention)} of numerics class {other.numerics_class} still need their last experts"
    return ""


def can_lose_one(capacities: Sequence[int], needed: int) -> bool:
    """Whether all experts fit on the workers without any one of them; a capacity of 0 is any number."""
    if len(capacities) < 2:
        return False
    if 0 in capacities:
        left = list(capacities)
        left.remove(0)
        return 0 in left or sum(left) >= needed
    return sum(capacities) - max(capacities) >= needed


def named(workers: Iterable[WorkerRecord]) -> str:
    names = sorted((one.worker_id for one in workers), key=ordinal)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
