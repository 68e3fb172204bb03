"""Runs schedules on the cluster and says what came of them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults.asking import Question
from faults.cluster import FaultyCluster
from faults.history import Answer
from faults.injectors import KINDS, targets
from faults.network import REDIS
from faults.schedule import Planned, schedule
from faults.traffic import Traffic, verdicts

BEFORE, AFTER = 40, 80  # tokens of all streams, before the first fault and behind the last one
ECHO_S = 2.0  # after a fault, in which a pause still counts as its own


@dataclass
class Outcome:
    """`answers`: of all choices. `stalls`: the longest pause of any stream at each fault, by its kind and whom it hit.
    `verdicts`: of answers that are not right."""

    requests: int = 0
    answers: int = 0
    tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    stalls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    verdicts: list[str] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(verdict.startswith("lost") for verdict in self.verdicts)

    @property
    def changed(self) -> int:
        return sum(verdict.startswith("changed") for verdict in self.verdicts)

    def note(
        self, seed: int, requests: Sequence[Sequence[Answer]], times: Sequence[tuple[Planned, float, float]]
    ) -> None:
        answers = [answer for choices in requests for answer in choices]
        self.requests, self.answers = self.requests + len(requests), self.answers + len(answers)
        self.tokens += sum(answer.tokens for answer in answers)
        self.verdicts += [f"{verdict} (seed {seed})" for verdict in verdicts(requests)]
        streams = [answer for answer in answers if not answer.oracle.texts]  # each token of which comes by itself
        for planned, begin, end in times:
            self.faults[planned.kind] += 1
            pauses = [pause for answer in streams for pause in answer.pauses(begin, end + ECHO_S)]
            hit = planned.target.rpartition("-")[0] or planned.target
            self.stalls[f"{planned.kind}, {hit}"].append(max(pauses, default=0.0))


@dataclass(frozen=True, slots=True)
class Mix:
    """Of what schedules are made: so many faults each, of these kinds."""

    faults: int = 2
    kinds: Sequence[str] = tuple(KINDS)


def run_schedule(cluster: FaultyCluster, questions: Sequence[Question], seed: int, outcome: Outcome, mix: Mix) -> None:
    """Runs one schedule under traffic, and waits until the cluster is whole again."""
    hit = {kind: found for kind, found in targets(cluster).items() if kind in mix.kinds}
    traffic = Traffic(cluster.door("router-0"), questions)
    times: list[tuple[Planned, float, float]] = []
    try:
        traffic.wait_for_tokens(BEFORE)
        for planned in schedule(seed, hit, mix.faults):
            time.sleep(planned.after_s)
            if planned.target != REDIS:
                cluster.wait_until_there(planned.target)
            injector, begin = KINDS[planned.kind](cluster, planned.target), time.monotonic()
            injector.inject()
            try:
                if not injector.verify():
                    outcome.without_effect.append(f"{planned.kind} at {planned.target} (seed {seed})")
                time.sleep(max(0.0, begin + planned.lasts_s - time.monotonic()))
            finally:
                injector.heal()
            times.append((planned, begin, time.monotonic()))
        traffic.wait_for_tokens(AFTER)
    finally:
        outcome.note(seed, traffic.finish(), times)
    cluster.wait_until_whole()


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(outcome: Outcome) -> dict[str, Any]:
    """The result as it is written."""
    return {
        "requests": outcome.requests,
        "answers": outcome.answers,
        "tokens": outcome.tokens,
        "lost": outcome.lost,
        "changed": outcome.changed,
        "without_effect": outcome.without_effect,
        "verdicts": outcome.verdicts,
        "faults": {
            what: {
                "count": len(stalls),
                "stall_s": {f"p{100 * share:g}": round(quantile(stalls, share), 3) for share in (0.5, 0.99)}
                | {"max": round(max(stalls), 3)},
            }
            for what, stalls in sorted(outcome.stalls.items())
        },
    }


def run(
    cluster: FaultyCluster,
    questions: Sequence[Question],
    seeds: Sequence[int],
    done: Callable[[int], None] = lambda seed: None,
    mix: Mix = Mix(),
) -> Outcome:
    outcome = Outcome()
    for seed in seeds:
        run_schedule(cluster, questions, seed, outcome, mix)
        done(seed)
    return outcome
