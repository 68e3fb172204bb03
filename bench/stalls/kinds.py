"""What fails, under which load, and how long streams may stand still then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.stalls.beds import Bed, link_bed, local_bed
from bench.stalls.callers import Load
from bench.stalls.node_bed import node_bed

Open = Callable[[Path], AbstractAsyncContextManager[Bed]]  # on a checkpoint
LATE_S = 0.5
FOUND_S = 2.0  # until a slow link is to be left
P99, LONGEST, LATE_UNTIL, TIMES = "p99", "max", "late_until", "times"  # what a goal is about
# In ms, of the longest time between two tokens; for a slow link the seconds until it is left, and then the p99 of all
# times between two tokens over that without the fault.
DEATH = {P99: 100.0, LONGEST: 300.0}
FROZEN, REPLAYED, CUT = {LONGEST: 2000.0}, {LONGEST: 500.0}, {LONGEST: 3000.0}
LEFT = {LATE_UNTIL: FOUND_S, TIMES: 2.0}

SHORT = Load(callers=8, prompt=16, answer=1500)
LONG = Load(callers=2, prompt=2000, answer=1500)
SHORT_MODEL, LONG_MODEL = "bench-90m", "bench-long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault. `goals`: at most, by what; none where nothing but losing no request is asked for.

    `restarts`: it lasts until all who died serve again.
    """

    what: str
    open: Open
    load: Load = SHORT
    model: str = SHORT_MODEL
    goals: dict[str, float] = field(default_factory=dict)
    restarts: bool = False


def _worker(role: str, what: str, *, all_of_it: bool = False, replicas: int = 2) -> Open:
    return partial(local_bed, role=role, what=what, all_of_it=all_of_it, replicas=replicas)


def _attention(what: str, open: Open, goals: dict[str, float], *, restarts: bool = False) -> Kind:
    return Kind(what=what, open=open, load=LONG, model=LONG_MODEL, goals=goals, restarts=restarts)


KINDS: dict[str, Kind] = {
    "expert-killed": Kind(what="an expert worker is killed", open=_worker("expert", "killed"), goals=DEATH),
    "expert-stopped": Kind(what="an expert worker is stopped", open=_worker("expert", "stopped"), goals=DEATH),
    "expert-frozen": Kind(
        what="the thread of an expert worker that computes stands still",
        open=_worker("expert", "frozen"),
        goals=FROZEN,
    ),
    "expert-blackholed": Kind(
        what="nothing gets to an expert worker or back",
        open=partial(link_bed, role="expert", line="blackholed"),
        goals=DEATH,
    ),
    "expert-one-way": Kind(
        what="an expert worker's replies are lost", open=partial(link_bed, role="expert", line="one-way"), goals=DEATH
    ),
    "expert-late": Kind(
        what=f"an expert worker's replies are {LATE_S:g} s late",
        open=partial(link_bed, role="expert", line=f"late {LATE_S:g}"),
        goals=LEFT,
    ),
    "expert-killed-alone": Kind(
        what="an expert worker is killed, without replicas", open=_worker("expert", "killed", replicas=1)
    ),
    "expert-stopped-alone": Kind(
        what="an expert worker is stopped, without replicas", open=_worker("expert", "stopped", replicas=1)
    ),
    "experts-killed": Kind(
        what="all expert workers are killed", open=_worker("expert", "killed", all_of_it=True), restarts=True
    ),
    "attention-killed": _attention("an attention worker is killed", _worker("attention", "killed"), REPLAYED),
    "attention-stopped": _attention("an attention worker is stopped", _worker("attention", "stopped"), REPLAYED),
    "attention-frozen": _attention(
        "the thread of an attention worker that computes stands still", _worker("attention", "frozen"), FROZEN
    ),
    "attention-blackholed": _attention(
        "nothing gets to an attention worker or back", partial(link_bed, role="attention", line="blackholed"), REPLAYED
    ),
    "attention-one-way": _attention(
        "an attention worker's replies are lost", partial(link_bed, role="attention", line="one-way"), REPLAYED
    ),
    "attentions-killed": _attention(
        "all attention workers are killed", _worker("attention", "killed", all_of_it=True), {}, restarts=True
    ),
    "node-cut": Kind(
        what="a node with a router, an attention and an expert worker is cut off", open=node_bed, goals=CUT
    ),
}
