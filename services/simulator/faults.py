"""What happens to a simulated cluster, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "router dies",
    "attention pod dies",
    "expert pod dies",
    "attention node lost",
    "attention pod stops",
    "expert pod stops",
    "slow attention link",
    "expert node lost",
    "slow expert",
    "slow link",
    "attention upgrade",
    "expert upgrade",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`ordinal`: of a pod, or of a node; `times`: as long as usual, or `late_s`: later than usual, for `seconds`.
    `partition`: of an upgrade, pods with lower ordinals stay as they are.
    """

    at: float
    kind: Kind
    ordinal: int = 0
    times: float = 1.0
    late_s: float = 0.0
    seconds: float = 0.0
    partition: int = 0
