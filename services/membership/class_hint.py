"""What the leader says of one numerics class while there are several; checked when it is read."""

from __future__ import annotations

import json
from dataclasses import dataclass

from services.membership.checks import is_text

MAX_CLASSES = 64
MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class ClassHint:
    """`ended`: its sequences can go on no more. `hold`: why its new expert workers do not count as ready yet, if so."""

    numerics_class: str
    ended: bool = False
    hold: str = ""


def parse(data: bytes) -> tuple[ClassHint, ...]:
    """Raises ValueError."""
    raw = json.loads(data) if len(data) <= MAX_BYTES else None
    if not isinstance(raw, list) or len(raw) > MAX_CLASSES:
        raise ValueError("it is no short list")
    found = []
    for one in raw:
        if not isinstance(one, dict) or one.keys() != {"numerics_class", "ended", "hold"}:
            raise ValueError("it has something else than classes")
        name, ended, hold = one["numerics_class"], one["ended"], one["hold"]
        if not (isinstance(name, str) and isinstance(hold, str) and type(ended) is bool):
            raise ValueError("a class has a value of another type")
        if not (is_text(name) and is_text(hold)):
            raise ValueError("a class has a text that is too long or not printable")
        found.append(ClassHint(name, ended, hold))
    return tuple(found)
