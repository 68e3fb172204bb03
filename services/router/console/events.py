"""What has happened between two looks at a cluster, in words: pure, from the two overviews alone."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.membership.worker_order import ordinal

FEW = 3  # so many workers of a role each get an event of their own
Key = tuple[str, str]  # role and worker id


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `kind` is a word to filter by, `text` one line."""

    kind: str
    text: str


def events_between(before: Overview, after: Overview, unleased: AbstractSet[Key] = frozenset()) -> list[Event]:
    """Returns the events in the order of: workers, leader, counts asked for, capacity.

    `unleased` are workers whose lease has expired; the others that are gone have withdrawn theirs.
    """
    return [*_workers(_by_key(before), _by_key(after), unleased), *_cluster(before, after)]


def table_event(epoch: int, experts: int, workers: int, moved: int) -> Event:
    """A new placement table: `moved` are the (expert, worker) that the last one did not have."""
    return Event("table", f"epoch {epoch}: {experts} experts on {_count(workers, 'worker')}, {moved} newly placed")


def _by_key(overview: Overview) -> dict[Key, WorkerRecord]:
    return {(record.role, record.worker_id): record for record in overview.workers}


def _workers(old: dict[Key, WorkerRecord], new: dict[Key, WorkerRecord], unleased: AbstractSet[Key]) -> list[Event]:
    gone = old.keys() - new.keys()
    both = new.keys() & old.keys()
    starts = {key for key in both if old[key].boot_id != new[key].boot_id}
    turned = {
        state: [key for key in both - starts if old[key].state != state == new[key].state]
        for state in ("serving", "draining", "frozen", "quarantined")
    }
    return [
        *_events("joined", "joined", new.keys() - old.keys()),
        *_events("restarted", "started again", starts),
        *_events("serving", "serving", turned["serving"]),
        *_events("draining", "draining", turned["draining"]),
        *_events("frozen", "stands still", turned["frozen"]),
        *_events("quarantined", "is in quarantine: it computes wrongly", turned["quarantined"]),
        *_events("left", "left", gone - unleased),
        *_events("lost", "lost, its lease has expired", gone & unleased),
    ]


def _events(kind: str, words: str, keys: Iterable[Key]) -> list[Event]:
    found = []
    names: dict[str, list[str]] = {}
    for role, worker_id in keys:
        names.setdefault(role, []).append(worker_id)
    for role, ids in sorted(names.items()):
        ids.sort(key=ordinal)
        if len(ids) > FEW:
            found.append(Event(kind, f"{len(ids)} {role} workers: {ids[0]} … {ids[-1]} {words}"))
        else:
            found += [Event(kind, f"{worker_id} {words}") for worker_id in ids]
    return found


def _cluster(before: Overview, after: Overview) -> list[Event]:
    found = []
    if before.leader != after.leader:
        found.append(Event("leader", f"{after.leader or 'no router'} leads, before it {before.leader or 'none'}"))
    for role, count in sorted(after.desired.items()):
        if role in before.desired and before.desired[role] != count:
            found.append(Event("scale", f"{role}={count} asked for, before it {before.desired[role]}"))
    if after.warning and not before.warning:
        found.append(Event("capacity", f"capacity shortage: {after.warning}"))
    if before.warning and not after.warning:
        found.append(Event("capacity", "the capacity shortage is over"))
    return found


def _count(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
