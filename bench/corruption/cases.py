"""What is damaged in a cluster with the settings that are shipped, and how fast it is to be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.corruption.damage import FLICKERS, ONCE

RARE_S, RESIDENT_S = 75.0, 60.0  # goals: a fault in one of a thousand computations; a bit that stays flipped
QUARANTINED, REPAIRED, ENDED = "it is in quarantine", "it has read the weights again", "its process has ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Memory of a worker of a role changes. `off`: the checks that are not to find it, with what they are set to.

    `found`: what shows that it was found.
    """

    what: str
    role: str
    damage: str
    by: str
    goal_s: float
    off: Mapping[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = (QUARANTINED,)


CASES: dict[str, Case] = {
    "expert-flickers": Case(
        what="a weight of each expert of a worker is wrong for a thousandth of the time",
        role="expert",
        damage=FLICKERS,
        by="calls computed again",
        goal_s=RARE_S,
    ),
    "expert-flipped": Case(
        what="a bit of a weight of an expert worker stays flipped",
        role="expert",
        damage=ONCE,
        by="all checks",
        goal_s=RESIDENT_S,
        found=(QUARANTINED, REPAIRED),
    ),
    "expert-scrubbed": Case(
        what="a bit of a weight of an expert worker stays flipped",
        role="expert",
        damage=ONCE,
        by="the scrub and golden rows alone",
        goal_s=RESIDENT_S,
        off={"CARACAL_SHADOW_SHARE": "0", "CARACAL_SHADOW_ANSWERS": "0"},
        found=(REPAIRED,),
    ),
    "attention-flipped": Case(
        what="a bit of a weight of an attention worker stays flipped",
        role="attention",
        damage=ONCE,
        by="all checks",
        goal_s=RESIDENT_S,
        found=(QUARANTINED, ENDED),
    ),
    "attention-scrubbed": Case(
        what="a bit of a weight of an attention worker stays flipped",
        role="attention",
        damage=ONCE,
        by="the scrub alone",
        goal_s=RESIDENT_S,
        off={"CARACAL_GOLDEN_SHARE": "0", "CARACAL_SHADOW_ANSWERS": "0"},
        found=(ENDED,),
    ),
    "attention-golden": Case(
        what="an attention worker computes one layer wrongly",
        role="attention",
        damage=ONCE,
        by="golden tokens alone",
        goal_s=RARE_S,
        off={"CARACAL_SCRUB_S": "0", "CARACAL_SHADOW_ANSWERS": "0"},
    ),
    "attention-flickers": Case(
        what="an attention worker computes one layer wrongly for a thousandth of the time",
        role="attention",
        damage=FLICKERS,
        by="answers computed again alone",
        goal_s=RARE_S,
        off={"CARACAL_SCRUB_S": "0", "CARACAL_GOLDEN_SHARE": "0"},
    ),
}
