"""The answer to whoever buys devices: which way wins, by how much, why, how sure, and what is left after a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.planner.deployment import Candidate, Machine, Split, Way, room
from services.planner.evidence import Judged, Sureness, decisive, signs, sureness
from services.planner.search import Layout, best, frontier, fullest, least_experts, pareto
from services.planner.traffic import Slo, Traffic

USUAL_LOAD = 0.7  # of a deployment's full rate, at which its waits are shown where no rate is asked for


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for so many devices.

    `margin`: the winner's rate over the best one's that places experts the other way, less one; infinite without one.
    `decisive`: the margin from which on it is greater than what the model was off by in such questions.
    """

    devices: int
    chosen: Mapping[Way, Candidate]
    winner: Candidate
    margin: float
    decisive: float
    why: str
    off_by: Sureness
    tested_signs: tuple[int, int]
    fitted_signs: tuple[int, int]
    after_loss: float  # of the winner's rate, with one worker less of the pool that can spare it least
    front: Sequence[Candidate]
    all_found: Sequence[Candidate]

    @property
    def clear(self) -> bool:
        return self.margin > self.decisive


@dataclass(frozen=True, slots=True)
class Infeasible(Exception):
    """No deployment does what is wanted. `options`: of the promises that come nearest; `by`: what keeps them."""

    why: str
    options: tuple[str, ...]
    by: str

    def __str__(self) -> str:
        return f"{self.why}; the nearest that is feasible: {' '.join(self.options)} ({self.by})"


def answer(m: Machine, devices: int, traffic: Traffic, slo: Slo, judged: Sequence[Judged]) -> Answer:
    """Raises NoRoom, Infeasible."""
    found = frontier(m, devices, traffic)
    chosen = best(m, devices, traffic, slo)
    if not chosen:
        raise _nearest(found, slo, f"no deployment of {devices} {m.device.name} meets the SLO")
    winner = max(chosen.values(), key=lambda one: one.rate)
    others = [one.rate for one in chosen.values() if (one.way == "separate") != (winner.way == "separate")]
    return Answer(
        devices=devices,
        chosen=chosen,
        winner=winner,
        margin=winner.rate / max(others) - 1 if others else math.inf,
        decisive=decisive(judged, apart=winner.way == "separate") - 1,
        why=_why(chosen, winner),
        off_by=sureness(judged, "gain of separating"),
        tested_signs=signs(judged, "tested"),
        fitted_signs=signs(judged, "fitted"),
        after_loss=after_loss(m, winner, traffic, slo),
        front=pareto(found, traffic),
        all_found=found,
    )


def most_within(m: Machine, devices: int, traffic: Traffic, slo: Slo) -> float:
    """Requests per second that the best deployment of so many devices serves within the SLO; 0 where none does."""
    return max((one.rate for one in best(m, devices, traffic, slo).values()), default=0.0)


def after_loss(m: Machine, one: Candidate, traffic: Traffic, slo: Slo) -> float:
    """The share of its rate that a deployment keeps without one worker, of the pool that can spare it least."""
    sizes = (one.serving.tp, 1, one.serving.tp)
    shares = [1.0]
    for place, count in enumerate(one.split):
        if count:
            attention, experts, prompts = (n - sizes[at] * (at == place) for at, n in enumerate(one.split))
            shares.append(_share_left(m, one, (attention, experts, prompts), traffic, slo))
    return min(shares)


def _share_left(m: Machine, one: Candidate, split: Split, traffic: Traffic, slo: Slo) -> float:
    lacking = split[0] < 1 or (one.prefill and split[2] < 1)
    if lacking or (one.experts and split[1] < least_experts(replace(m, replicas=1))):
        return 0.0
    machine = replace(m, serving=one.serving, replicas=min(m.replicas, max(1, split[1])))
    most = min(one.sequences, room(machine, one.way, split, traffic))
    left = fullest(Layout(machine, one.way, split, most), traffic, slo)
    return min(1.0, left.rate / one.rate) if left is not None else 0.0


def _nearest(found: Sequence[Candidate], slo: Slo, why: str) -> Infeasible:
    """The promises that come nearest, as options, rounded up."""
    fastest = min(found, key=lambda one: max(one.step.tpot_s / slo.itl_s, one.ttft_s / slo.ttft_s))
    options = []
    if fastest.step.tpot_s > slo.itl_s:
        options.append(f"--itl {_up(1e3 * fastest.step.tpot_s)}")
    if fastest.ttft_s > slo.ttft_s:
        options.append(f"--ttft {_up(fastest.ttft_s)}")
    return Infeasible(why, tuple(options), f"{fastest.way}, {fastest.sequences} sequences of an attention worker")


def _up(value: float) -> str:
    """Rounded up to three digits."""
    digits = 2 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits) / 10**digits:.{max(0, digits)}f}"


def _why(chosen: Mapping[Way, Candidate], winner: Candidate) -> str:
    """What decides between the two ways to place experts, in one or two sentences."""
    apart = chosen.get("separate")
    together = max((one for one in chosen.values() if one is not apart), key=lambda one: one.rate, default=None)
    if apart is None or together is None:
        return f"Only {' and '.join(chosen)} fit the memory and the SLO."
    one, other = apart.step.layer, together.step.layer
    us = 1e6
    prompts = f", prompts on {together.prefill} more" if together.prefill else ""
    said = [
        f"Apart, a layer takes {one.total * us:.0f} µs, of which {one.exposed * us:.0f} µs wait for experts "
        f"and the link "
        f"({apart.attention}:{apart.experts}, experts busy {100 * one.expert_busy:.0f} % of the time); "
        f"together{prompts} {other.total * us:.0f} µs, "
        f"{other.exposed * us:.0f} µs exposed."
    ]
    said.append(
        f"{apart.sequences} sequences on each of {apart.workers} attention workers against {together.sequences} on "
        f"each of {together.workers}: "
        + (
            "memory that experts leave free is worth more than the devices they take."
            if winner is apart
            else "what experts' devices could compute of attention is worth more than the memory they free."
        )
    )
    return " ".join(said)
