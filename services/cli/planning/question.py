"""Turns the options of `caracal plan` into a question of the planner, and asks it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from services.cli.planning.errors import BadPlan
from services.cli.planning.models import find_shape
from services.cli.planning.profiles import device, domain, link, names
from services.planner.answer import Answer, Infeasible, answer
from services.planner.deployment import Machine
from services.planner.evidence import Judged, judge
from services.planner.rows import Profiles
from services.planner.search import NoRoom, least_devices
from services.planner.serving import Serving
from services.planner.shape import BYTES
from services.planner.traffic import Slo, Traffic

MOST_DEVICES = 8192
TRIES = 6
DEFAULT_LINKS = {"h20": "infiniband", "gb200": "nvl72", "910c": "ub", "cpu": "loopback"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the user gave. `gpus` 0: as many as the rate or the budget takes; `link` empty: the device's usual one."""

    model: str
    gpu: str
    gpus: int = 0
    budget_h: float = 0.0
    link: str = ""
    price_h: float = 0.0
    weights: str = "fp8"
    kv: str = "bf16"
    replicas: int = 1
    unevenness: float = 0.0
    traffic: Traffic
    slo: Slo
    profile: Path | None = None

    def __post_init__(self) -> None:
        """Raises BadPlan."""
        t = self.traffic
        if t.rate == 0 and not self.gpus and not self.budget_h:
            raise BadPlan(
                "no traffic and no devices: give --rate, --gpus or --budget; e.g. --gpus 128 for the most "
                "that 128 serve"
            )
        if t.prompt < 1 or t.answer < 1:
            raise BadPlan("a request without a prompt or an answer is no traffic: the least is --prompt 1 --answer 1")
        for option, value in (("--weights", self.weights), ("--kv", self.kv)):
            if value not in BYTES:
                raise BadPlan(f"{option} {value!r} is no dtype; the nearest is 'fp8' ({', '.join(BYTES)})")


@dataclass(frozen=True, slots=True)
class Found:
    """The question as it was asked in the end, the machine and the answer."""

    question: Question
    machine: Machine
    answer: Answer
    judged: list[Judged]


def profiles() -> Profiles:
    """All devices and links that the package knows."""
    return Profiles({one: device(one) for one in names("devices")}, {one: link(one) for one in names("links")})


def machine_of(q: Question) -> Machine:
    shape, found = find_shape(q.model), device(q.gpu, q.profile)
    name = q.link or DEFAULT_LINKS.get(q.gpu, "infiniband")
    cpu = q.gpu == "cpu"
    weights = "bf16" if cpu and q.weights == "fp8" else q.weights
    serving = Serving(
        dense_dtype=weights,
        expert_dtype=weights,
        kv_dtype=q.kv,
        out_dtype="bf16" if cpu else "fp8",
        drafts=1 if shape.draft_params and not cpu else 0,
        unevenness=q.unevenness,
    )
    return Machine(
        shape=shape,
        device=found,
        link=link(name, q.profile),
        serving=serving,
        price_h=q.price_h or found.price_h,
        replicas=q.replicas,
        node=1 if cpu or domain(name) else 8,
    )


def ask(q: Question) -> Found:
    """Raises BadPlan, with the nearest that is feasible."""
    machine, judged = machine_of(q), judge(profiles())
    if q.traffic.prompt + q.traffic.answer > machine.shape.longest:
        longest = machine.shape.longest
        raise BadPlan(
            f"prompt and answer have {q.traffic.prompt + q.traffic.answer:,.0f} tokens, {machine.shape.name} "
            f"takes {longest:,}; "
            f"the nearest that is feasible: --prompt {longest - q.traffic.answer:.0f}"
        )
    most = _limit(q, machine)
    try:
        given = q.gpus or q.budget_h
        found = answer(machine, most, q.traffic, q.slo, judged) if given else _enough(machine, q, judged)
    except NoRoom as error:
        raise BadPlan(
            f"{most} {q.gpu} do not hold {machine.shape.name} in {machine.serving.expert_dtype}; the nearest "
            f"that is feasible: --gpus {error.least}"
        ) from None
    except Infeasible as error:
        raise BadPlan(str(error)) from None
    if q.traffic.rate > found.winner.rate:
        needed = found.needed(q.traffic)
        raise BadPlan(
            f"{found.devices} {q.gpu} serve {found.winner.rate:.3g} requests/s of this traffic within the "
            f"SLO, not {q.traffic.rate:g}; "
            f"the nearest that is feasible: --rate {found.winner.rate:.3g}, or about --gpus {needed}"
        )
    return Found(q, machine, found, judged)


def _limit(q: Question, machine: Machine) -> int:
    by_budget = int(q.budget_h // machine.price_h) if q.budget_h else MOST_DEVICES
    if by_budget < 1:
        raise BadPlan(
            f"{q.budget_h:g} USD an hour buy no {q.gpu} at {machine.price_h:g}; the nearest: --budget "
            f"{machine.price_h:g}"
        )
    return min(q.gpus or MOST_DEVICES, by_budget)


def _enough(machine: Machine, q: Question, judged: list[Judged]) -> Answer:
    """The fewest devices, in steps of a node where there are nodes, that serve the rate within the SLO."""
    step = machine.node
    devices = max(step, math.ceil(least_devices(machine) * 1.25 / step) * step)
    tried: dict[int, Answer] = {}
    for _ in range(TRIES):
        tried[devices] = found = answer(machine, devices, q.traffic, q.slo, judged)
        wanted = math.ceil(devices * q.traffic.rate / found.winner.rate / step) * step
        wanted = max(step, math.ceil(least_devices(machine) / step) * step, wanted)
        if wanted in tried:
            break
        if wanted > MOST_DEVICES:
            raise BadPlan(
                f"{q.traffic.rate:g} requests/s take about {wanted:,} {q.gpu}, more than the {MOST_DEVICES:,} "
                f"that are planned for; "
                f"the nearest that is feasible: --rate {q.traffic.rate * MOST_DEVICES / wanted:.3g}"
            )
        devices = wanted
    enough = [one for one in tried.values() if one.winner.rate >= q.traffic.rate]
    return min(enough or tried.values(), key=lambda one: one.devices if enough else -one.winner.rate)
