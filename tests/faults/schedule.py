"""Which faults come when: a pure function of a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

SHORTEST_S, LONGEST_S = 0.3, 1.5  # that a fault lasts
PAUSE_S = 0.4  # at most, between the begins of two


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault of a kind at a target, that begins so many seconds after the one before it and lasts so long."""

    kind: str
    target: str
    after_s: float
    lasts_s: float


def schedule(seed: int, targets: Mapping[str, Sequence[str]], faults: int) -> list[Planned]:
    """Returns the faults of a seed. `targets`: of each kind.

    The first one's kind goes through all kinds as seeds do, so that as many schedules as kinds have each one.
    """
    rng, kinds = Random(f"caracal faults {seed}"), sorted(targets)
    chosen = [kinds[seed % len(kinds)], *rng.choices(kinds, k=faults - 1)]
    return [
        Planned(
            kind,
            rng.choice(targets[kind]),
            round(rng.uniform(0, PAUSE_S), 3),
            round(rng.uniform(SHORTEST_S, LONGEST_S), 3),
        )
        for kind in chosen
    ]
