"""Which cluster, which requests and which faults: a pure function of a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

FAULTS = (
    "kill attention",
    "kill expert",
    "kill router",
    "stop attention",
    "stop expert",
    "stop router",
    "freeze attention",
    "partition",
    "one way",
    "reset",
    "slow",
    "twice",
    "router without redis",
    "redis down",
    "redis stopped",
    "redis read-only",
    "redis failover",
    "redis wiped",
    "redis clock",
    "clock",
    "drain attention",
    "drain expert",
    "add expert",
    "add foreign expert",
    "flips",
    "convict attention",
    "convict expert",
    "drain router",
)
# What makes two routers lead at once, and gives both of them something to do. Among all kinds that is too rare.
LEADERS = (
    "router without redis",
    "stop router",
    "kill router",
    "drain router",
    "redis wiped",
    "redis failover",
    "redis clock",
    "kill expert",
    "drain expert",
    "add expert",
)
FIRST_S, LAST_S = 0.2, 2.8  # when faults begin
ASKED_S = 0.9  # when the first request may come: the cluster has begun
SHORTEST_S, USUAL_S = 0.05, 2.4  # that one lasts
LONGEST_S = 8.0  # in a quarter of the schedules: longer than any lease
LONG = 0.25
MOST_FAULTS = 6


@dataclass(frozen=True, slots=True)
class Fault:
    """`target` and `other` choose among the processes that are there; `seconds` is how long it lasts, `amount` how far
    a clock jumps or how slow a link is, from -1 to 1."""

    kind: str
    at: float
    seconds: float
    target: int
    other: int
    amount: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A client's request. `leaves_after`: tokens after which it has gone; 0 = it stays."""

    at: float
    prompt: tuple[int, ...]
    max_tokens: int
    leaves_after: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """`seed`: of the delays of messages."""

    seed: int
    routers: int = 2
    attention: int = 2
    experts: int = 2
    asked: tuple[Asked, ...] = ()
    faults: tuple[Fault, ...] = ()


def fault(rng: Random, kind: str, longest_s: float) -> Fault:
    """A fault of a kind that lasts so long at most."""
    return Fault(
        kind,
        round(rng.uniform(FIRST_S, LAST_S), 3),
        round(rng.uniform(SHORTEST_S, longest_s), 3),
        rng.randrange(64),
        rng.randrange(64),
        round(rng.uniform(-1, 1), 3),
    )


def asked(rng: Random) -> Asked:
    length = rng.randint(1, 16)
    leaves = rng.randint(1, length) if rng.random() < 0.15 else 0
    prompt = tuple(rng.randrange(1, 60) for _ in range(rng.randint(1, 6)))
    return Asked(round(rng.uniform(ASKED_S, LAST_S), 3), prompt, length, leaves)


def schedule(seed: int) -> Schedule:
    """The schedule of a seed. The first fault's kind goes through all kinds as seeds do; the others are of any kind, of
    three kinds, or of those of LEADERS."""
    rng = Random(f"caracal protocol {seed}")
    kinds = rng.choice([FAULTS, rng.sample(FAULTS, 3), LEADERS])
    longest_s = LONGEST_S if rng.random() < LONG else USUAL_S
    faults = [fault(rng, FAULTS[seed % len(FAULTS)], longest_s)]
    faults += [fault(rng, rng.choice(kinds), longest_s) for _ in range(rng.randint(0, MOST_FAULTS - 1))]
    return Schedule(
        seed,
        rng.randint(2 if kinds is LEADERS else 1, 3),
        rng.randint(1, 3),
        rng.randint(1, 3),
        tuple(asked(rng) for _ in range(rng.randint(2, 4))),
        tuple(sorted(faults, key=lambda one: one.at)),
    )
