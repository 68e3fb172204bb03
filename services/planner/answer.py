"""The answer to whoever buys devices: which way wins, by how much, why, how sure, and what is left after a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.planner.deployment import Candidate, Machine, Way, evaluate
from services.planner.evidence import Judged, Sureness, signs, sureness
from services.planner.search import best, frontier, least_devices, least_experts, pareto
from services.planner.traffic import Slo, Traffic


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for so many devices.

    `margin`: the winner's rate over the best one's that places experts the other way, less one; infinite without one.
    """

    devices: int
    chosen: Mapping[Way, Candidate]
    winner: Candidate
    margin: float
    clear: bool  # the margin is greater than what the model was off by in such questions
    why: str
    off_by: Sureness
    right_signs: tuple[int, int]
    after_loss: float  # requests per second of the winner with one device less, as a share
    front: Sequence[Candidate]
    all_found: Sequence[Candidate]

    def needed(self, traffic: Traffic) -> int:
        """Devices of the winner's kind that the wanted rate takes."""
        return math.ceil(self.devices * traffic.rate / self.winner.rate)


@dataclass(frozen=True, slots=True)
class Infeasible(Exception):
    """No deployment does what is wanted. `nearest`: what can be had instead, in words."""

    why: str
    nearest: str

    def __str__(self) -> str:
        return f"{self.why}; the nearest that is feasible: {self.nearest}"


def answer(m: Machine, devices: int, traffic: Traffic, slo: Slo, judged: Sequence[Judged]) -> Answer:
    """Raises NoRoom, Infeasible."""
    found = frontier(m, devices, traffic)
    chosen = best(found, slo, traffic)
    if not chosen:
        raise Infeasible(f"no deployment of {devices} {m.device.name} meets the SLO", _nearest(found, traffic, slo))
    winner = max(chosen.values(), key=lambda one: one.rate)
    others = [one.rate for one in chosen.values() if (one.way == "separate") != (winner.way == "separate")]
    margin = winner.rate / max(others) - 1 if others else math.inf
    off_by = sureness(judged, "gain of separating")
    return Answer(
        devices=devices,
        chosen=chosen,
        winner=winner,
        margin=margin,
        clear=margin > off_by.error,
        why=_why(chosen, traffic),
        off_by=off_by,
        right_signs=signs(judged),
        after_loss=after_loss(m, winner, traffic),
        front=pareto(found, traffic),
        all_found=found,
    )


def after_loss(m: Machine, one: Candidate, traffic: Traffic) -> float:
    """The share of its rate that a deployment keeps without one worker, of the pool that can spare it least."""
    split = (one.attention, one.experts, one.prefill)
    shares = []
    for number, size in enumerate((one.serving.tp, 1, one.serving.tp)):
        if split[number]:
            fewer = tuple(count - (size if number == place else 0) for place, count in enumerate(split))
            shares.append(_share_left(m, one, (fewer[0], fewer[1], fewer[2]), traffic))
    return min(shares)


def _share_left(m: Machine, one: Candidate, split: tuple[int, int, int], traffic: Traffic) -> float:
    lacking = split[0] < 1 or (one.prefill and split[2] < 1) or sum(split) < least_devices(m)
    if lacking or (one.experts and split[1] < least_experts(replace(m, replicas=1))):
        return 0.0
    machine = replace(m, serving=one.serving)
    for sequences in range(one.sequences, 0, -max(1, one.sequences // 20)):
        if (left := evaluate(machine, one.way, split, sequences, traffic, Slo())) is not None:
            return min(1.0, left.rate / one.rate)
    return 0.0


def _nearest(found: Sequence[Candidate], traffic: Traffic, slo: Slo) -> str:
    fastest = min(found, key=lambda one: max(one.step.tpot_s / slo.itl_s, one.ttft_s / slo.ttft_s))
    return (
        f"{1e3 * fastest.step.tpot_s:.3g} ms between tokens and "
        f"{fastest.ttft_percentile_s(traffic, 0.7 * fastest.rate):.3g} s to the "
        f"first one, {fastest.way}, {fastest.sequences} sequences per device"
    )


def _why(chosen: Mapping[Way, Candidate], traffic: Traffic) -> str:
    """What decides between the two ways to place experts, in one or two sentences."""
    apart, together = chosen.get("separate"), chosen.get("colocated")
    if apart is None or together is None:
        return f"only {' and '.join(chosen)} fit the memory and the SLO."
    one, other = apart.step.layer, together.step.layer
    us = 1e6
    said = [
        f"Apart, a layer takes {one.total * us:.0f} µs, of which {one.exposed * us:.0f} µs wait for experts "
        f"and the link "
        f"({apart.attention}:{apart.experts}, experts busy {100 * one.expert_busy:.0f} % of the time); "
        f"together {other.total * us:.0f} µs, "
        f"{other.exposed * us:.0f} µs exposed."
    ]
    said.append(
        f"{apart.sequences} sequences on each of {apart.attention} devices against {together.sequences} on "
        f"each of {together.attention}: "
        + (
            "memory that experts leave free is worth more than the devices they take."
            if apart.rate > together.rate
            else "what experts' devices could compute of attention is worth more than the memory they free."
        )
    )
    return " ".join(said)
