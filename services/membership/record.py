"""One process's lease as stored in Redis."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

ROLES = ("attention", "expert", "router")


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
    capacity: int = 0  # experts it may load; 0 = any number
    loaded: int = 0
    stats: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerRecord:
        """Raises ValueError when the text is not a record."""
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        values: dict[str, Any] = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        for f in fields(cls):
            kind = {"str": str, "int": int, "bool": bool}.get(str(f.type), dict)
            if f.name in values and type(values[f.name]) is not kind:
                raise ValueError(f"{f.name} is not of type {f.type}")
        stats = values.get("stats", {})
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in stats.values()):
            raise ValueError("stats has values that are not numbers")
        if not all(isinstance(part, str) for part in values.get("numerics", {}).values()):
            raise ValueError("numerics has values that are not strings")
        try:
            record = cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if record.role not in ROLES:
            raise ValueError(f"role {record.role!r} is unknown")
        return record

    def to_json(self) -> str:
        return json.dumps(asdict(self))
