"""Which faults come when: a pure function of a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

SHORT_S = 0.3, 1.5  # that a fault lasts
LONG_S = 4.0, 8.0  # longer than the leases of workers and leaders, so that they lapse
LONG_SEEDS = 4  # every so many a schedule has long faults of kinds that are short otherwise
PAUSE_S = 0.4  # at most, between the begins of two that hit different nodes
GAP_S = 0.2  # between two at the same node, which do not overlap


class Lasting(Enum):
    SHORT = "short"
    SOMETIMES_LONG = "long in every fourth schedule"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a kind of fault may hit, and how long it lasts. A target is a node's name, or several joined by `+`."""

    targets: Sequence[str]
    lasting: Lasting = Lasting.SHORT


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that begins so many seconds after the schedule does, whatever others do. `seed`: of its own choices."""

    kind: str
    target: str
    at_s: float
    lasts_s: float
    seed: int = 0

    @property
    def nodes(self) -> list[str]:
        return self.target.split("+")

    @property
    def ends_s(self) -> float:
        return self.at_s + self.lasts_s


def hits_leader(seed: int) -> bool:
    """Whether the router that may be hit is to lead the placement: in every other schedule."""
    return seed % 2 == 0


def kinds_of(seed: int, kinds: Sequence[str], faults: int) -> list[str]:
    """The kinds of a schedule's faults. One schedule after the other goes through all of them, in another order each
    time: so many faults as there are kinds have each one, whichever schedule they are in."""
    ordered, chosen = sorted(kinds), []
    for index in range(seed * faults, (seed + 1) * faults):
        turn, place = divmod(index, len(ordered))
        chosen.append(Random(f"caracal kinds {turn}").sample(ordered, len(ordered))[place])
    return chosen


def schedule(seed: int, kinds: Mapping[str, Choices], faults: int, also: Sequence[str] = ()) -> list[Planned]:
    """Returns the faults of a seed, and one of each kind of `also` beside them. Those at different nodes overlap."""
    rng = Random(f"caracal faults {seed}")
    planned: list[Planned] = []
    at_s, long = 0.0, seed % LONG_SEEDS == 0
    for kind in [*kinds_of(seed, list(kinds), faults), *also]:
        choices = kinds[kind]
        at_s += rng.uniform(0, PAUSE_S)
        is_long = choices.lasting is Lasting.LONG or (long and choices.lasting is Lasting.SOMETIMES_LONG)
        lasts_s = rng.uniform(*(LONG_S if is_long else SHORT_S))
        target = rng.choice([one for one in choices.targets if _free_at(one, planned) <= at_s] or choices.targets)
        begins_s = max(at_s, _free_at(target, planned))
        planned.append(Planned(kind, target, round(begins_s, 3), round(lasts_s, 3), rng.randrange(1 << 31)))
    return planned


def _free_at(target: str, planned: Sequence[Planned]) -> float:
    """When nothing hits any of the target's nodes any more."""
    nodes = set(target.split("+"))
    return max((one.ends_s + GAP_S for one in planned if nodes & set(one.nodes)), default=0.0)


def overlapping(planned: Sequence[Planned]) -> int:
    """How many begin while another one lasts."""
    return sum(any(other.at_s <= one.at_s < other.ends_s for other in planned if other is not one) for one in planned)
