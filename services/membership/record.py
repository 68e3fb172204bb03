"""One process's lease as stored in Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from services.membership.checks import MAX_COUNT, MAX_EPOCH, is_address, is_text

ROLES = ("attention", "expert", "router")
COUNTED = ("progress", "stats", "layers")  # the fields that differ at every renewal
LAYER_NUMBERS = ("exposed_us", "round_trip_us", "zero_share")  # of `layers`: means of each layer
MAX_LAYERS = 1024
LARGEST = 1e100  # no number of `stats` or `layers` is as large
MAX_BYTES = 256 << 10  # of a record
MAX_ENTRIES = 64  # of `stats` and of `numerics`
MAX_LOADED = 1 << 31  # experts


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One process's lease: its identity, its addresses and the state it reports."""

    worker_id: str
    role: str
    address: str  # host:port of its gRPC server
    boot_id: str  # changes with every start
    metrics_address: str = ""
    numerics_class: str = ""
    numerics: dict[str, str] = field(default_factory=dict)  # the class's parts, in words
    epoch: int = 0
    progress: int = 0  # advances while the compute loop does
    draining: bool = False
    stands_still: bool = False  # its computing thread does not go on
    capacity: int = 0  # experts it may load; 0 = any number
    fitting: int = 0  # experts that fit its memory beside others, as it was at the start; 0 = unknown
    host: str = ""  # the machine it runs on; empty = unknown
    zone: str = ""  # the zone of that machine; empty = unknown
    refused: str = ""  # why it must not serve: its weights are not those of the others
    quarantined: str = ""  # why others leave it out: it computes wrongly; set by who reads the lease
    loaded: int = 0
    stats: dict[str, float] = field(default_factory=dict)
    layers: dict[str, list[float]] = field(default_factory=dict)  # LAYER_NUMBERS, by layer; attention workers alone

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerRecord:
        """Raises ValueError when the text is not a record."""
        raw = _checked(text, {f.name: str(f.type) for f in fields(cls)})
        try:
            record = cls(**raw)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if record.role not in ROLES:
            raise ValueError(f"role {record.role!r} is unknown")
        if not record.worker_id or min(record.epoch, record.capacity, record.fitting, record.loaded) < 0:
            raise ValueError("worker_id is empty, or a count is negative")
        if record.epoch >= MAX_EPOCH or max(record.capacity, record.fitting, record.loaded) >= MAX_LOADED:
            raise ValueError("epoch, capacity, fitting or loaded is too large")
        for address in (record.address, record.metrics_address):
            if address and not is_address(address):
                raise ValueError(f"{address[:80]!r} is no address of the form HOST:PORT")
        return record

    @property
    def serving(self) -> bool:
        """Whether it serves: with a placement table and, if an expert worker, experts; not while it drains or hangs."""
        goes_on = not self.draining and not self.stands_still
        return self.epoch > 0 and goes_on and (self.loaded > 0 or self.role != "expert")

    @property
    def leaves(self) -> bool:
        """Whether what it has is to be elsewhere: it drains, or computes wrongly."""
        return self.draining or bool(self.quarantined)

    @property
    def state(self) -> str:
        """In a word: joining, serving, refused, quarantined, draining or frozen. A router serves from its start."""
        if self.stands_still:
            return "frozen"
        if self.quarantined and not self.draining:
            return "quarantined"
        if self.draining or self.refused:
            return "draining" if self.draining else "refused"
        return "serving" if self.role == "router" or self.serving else "joining"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name; what they hold is not copied."""
        return {name: getattr(self, name) for name in FIELDS}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    def lease_json(self) -> str:
        """Returns what the lease says: everything but what is counted, so that most renewals write the same."""
        return json.dumps({name: value for name, value in self.to_dict().items() if name not in COUNTED})

    def counts_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in COUNTED})

    def with_counts(self, text: str | bytes) -> WorkerRecord:
        """Returns the record with the counts of `counts_json`. Raises ValueError when the text has none."""
        return replace(self, **_checked(text, {"progress": "int", "stats": "dict", "layers": "dict"}))

    def membership(self) -> tuple[object, ...]:
        """What others are to know at once when it changes: a start, a move, a drain."""
        state = self.numerics_class, self.draining, self.stands_still, self.refused, self.capacity
        return self.boot_id, self.address, *state, self.host, self.zone


FIELDS = tuple(each.name for each in fields(WorkerRecord))


def _checked(text: str | bytes, types: Mapping[str, str]) -> dict[str, Any]:
    """Reads those fields from a JSON object. Raises ValueError."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    raw = json.loads(text if isinstance(text, str) else text.decode())
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    values = {name: raw[name] for name in types if name in raw}
    for name, value in values.items():
        if type(value) is not {"str": str, "int": int, "bool": bool}.get(types[name], dict):
            raise ValueError(f"{name} is not of type {types[name]}")
    if not 0 <= values.get("progress", 0) < MAX_COUNT:
        raise ValueError("progress is negative or too large")
    stats, numerics, layers = values.get("stats", {}), values.get("numerics", {}), values.get("layers", {})
    if max(len(stats), len(numerics)) > MAX_ENTRIES:
        raise ValueError(f"stats or numerics has more than {MAX_ENTRIES} entries")
    if not all(isinstance(part, str) for part in numerics.values()):
        raise ValueError("numerics has values that are not strings")
    if not all(map(_is_number, stats.values())):
        raise ValueError("stats has values that are not numbers, or too large")
    for name, numbers in layers.items():
        if name not in LAYER_NUMBERS or type(numbers) is not list or len(numbers) > MAX_LAYERS:
            raise ValueError("layers has something else than short lists of LAYER_NUMBERS")
        if not all(map(_is_number, numbers)):
            raise ValueError("layers has values that are not numbers, or too large")
    texts = [value for value in values.values() if isinstance(value, str)]
    for one in (*texts, *stats, *numerics, *numerics.values()):
        one.encode()  # half a surrogate could not be sent
        if not is_text(one):
            raise ValueError(f"{one[:40]!r} is too long or not printable")
    return values


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST < value < LARGEST
