"""The state of a cluster at one moment, as `caracal status` shows it: read from Redis, or from a router as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields

from services.membership.numerics_class import without_common
from services.membership.record import WorkerRecord
from services.membership.redis import Membership

SHOWN = ("router", "attention", "expert")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A cluster's workers, epoch and leader.

    `desired`: the worker counts requested by users, by role. `warning`: the capacity shortage in words, empty when
    there is none. `lost`: how many experts are loaded on no worker for lack of capacity; requests wait for them.
    `holds`: why new expert workers do not count as ready yet, by their numerics class, while one replaces another.
    """

    epoch: int = 0
    leader: str = ""
    warning: str = ""
    lost: int = 0
    desired: dict[str, int] = field(default_factory=dict)
    holds: dict[str, str] = field(default_factory=dict)
    workers: tuple[WorkerRecord, ...] = ()

    @classmethod
    async def read(cls, membership: Membership, counts: bool = True) -> Overview:
        """Reads everything from Redis, or all but what is counted. Raises RedisUnavailable."""
        workers = [record for role in SHOWN for record in await membership.workers(role, counts=counts)]
        epoch, leader = await membership.table_epoch(), await membership.leader()
        shortage = await membership.shortage()
        return cls(
            epoch=epoch,
            leader=(leader or "").partition("/")[0],
            warning=str(shortage) if shortage else "",
            lost=shortage.lost if shortage else 0,
            desired=await membership.desired(),
            holds={one.numerics_class: one.hold for one in await membership.generations.read() if one.hold},
            workers=tuple(workers),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Overview:
        """Raises ValueError when the text is not what `to_dict` gives."""
        raw = json.loads(text)
        if not isinstance(raw, dict) or not isinstance(raw.get("workers"), list):
            raise ValueError("no list of workers")
        desired = raw.get("desired")
        counts = desired if isinstance(desired, dict) else {}
        if not all(type(one) is int for one in (raw.get("epoch", 0), raw.get("lost", 0), *counts.values())):
            raise ValueError("epoch, lost or desired is no whole number")
        holds = raw.get("holds")
        return cls(
            epoch=raw.get("epoch", 0),
            leader=str(raw.get("leader", "")),
            warning=str(raw.get("warning", "")),
            lost=raw.get("lost", 0),
            desired=counts,
            holds={str(name): str(why) for name, why in holds.items()} if isinstance(holds, dict) else {},
            workers=tuple(WorkerRecord.from_json(json.dumps(worker)) for worker in raw["workers"]),
        )

    @property
    def numerics_classes(self) -> list[str]:
        """The workers' numerics classes: one, except while workers of another class replace them."""
        return without_common(record.numerics_class for record in self.workers)

    @property
    def not_ready_reason(self) -> str:
        """Says why the cluster cannot serve requests; empty when it can."""
        if not any(one.role == "router" for one in self.workers):
            return "no router runs"
        if not any(one.role == "attention" and one.epoch > 0 and not one.draining for one in self.workers):
            return "no attention worker serves"
        if not any(one.role == "expert" and one.loaded for one in self.workers):
            return "no expert worker has loaded experts"
        return f"{self.lost} experts are loaded on no worker" if self.lost else ""

    def to_dict(self) -> dict[str, object]:
        """Returns the JSON object that `from_json` reads, with the numerics classes added for other readers."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        workers = [record.to_dict() for record in self.workers]
        return own | {"workers": workers, "numerics_classes": self.numerics_classes}
