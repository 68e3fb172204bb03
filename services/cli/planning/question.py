"""Turns the options of `caracal plan` into a question of the planner, and asks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from services.cli.planning.amount import Amount, amount_of
from services.cli.planning.errors import BadPlan
from services.cli.planning.models import find_shape
from services.cli.planning.profiles import device, link, names
from services.planner.answer import Answer, Infeasible, answer
from services.planner.deployment import Machine
from services.planner.evidence import Judged, judge
from services.planner.rows import Profiles
from services.planner.search import NoRoom, fits, least_devices
from services.planner.serving import Serving
from services.planner.shape import BYTES
from services.planner.traffic import Slo, Traffic

DEFAULT_LINKS = {"gb200": "nvl72", "910c": "ub", "cpu": "loopback"}
KV_DTYPES = ("bf16", "fp8", "fp32")


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
    acceptance: float = 0.8
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
        for option, value, known in (("--weights", self.weights, tuple(BYTES)), ("--kv", self.kv, KV_DTYPES)):
            if value not in known:
                raise BadPlan(f"{option} {value!r} is no dtype; the nearest is 'fp8' ({', '.join(known)})")


@dataclass(frozen=True, slots=True)
class Found:
    """The question, the machine and the answer. `cut`: why not all of the budget is spent."""

    question: Question
    machine: Machine
    answer: Answer
    cut: str = ""


def profiles() -> Profiles:
    """All devices and links that the package knows."""
    return Profiles({one: device(one) for one in names("devices")}, {one: link(one) for one in names("links")})


def machine_of(q: Question) -> Machine:
    shape, found = find_shape(q.model), device(q.gpu, q.profile)
    name = q.link or DEFAULT_LINKS.get(q.gpu, "infiniband")
    cpu = found.platform == "cpu"
    weights = "bf16" if cpu and q.weights == "fp8" else q.weights
    serving = Serving(
        dense_dtype=weights,
        expert_dtype=weights,
        kv_dtype=q.kv,
        out_dtype="bf16" if cpu else "fp8",
        drafts=1 if shape.draft_params and not cpu else 0,
        acceptance=q.acceptance,
        unevenness=q.unevenness,
    )
    price_h = q.price_h or found.price_h
    if not price_h:
        raise BadPlan(f"the profile of {q.gpu} has no price_h: give --price, in USD an hour")
    return Machine(
        shape=shape,
        device=found,
        link=link(name, q.profile),
        serving=serving,
        price_h=price_h,
        replicas=q.replicas,
    )


@cache
def judged() -> tuple[Judged, ...]:
    """What the model says of all that is published, with the package's own profiles."""
    return tuple(judge(profiles()))


def ask(q: Question) -> Found:
    """Raises BadPlan, with the nearest that is feasible."""
    machine = machine_of(q)
    amount = amount_of(q.gpus, q.budget_h, machine)
    _check_length(q, machine, amount)
    try:
        devices = amount.devices if q.gpus or not q.traffic.rate else amount.least_for(machine, q.traffic, q.slo)
        found = answer(machine, devices, q.traffic, q.slo, judged())
    except NoRoom:
        raise BadPlan(_no_room(q, machine, amount)) from None
    except Infeasible as error:
        raise BadPlan(str(error)) from None
    if q.traffic.rate > found.winner.rate:
        raise BadPlan(
            f"{found.devices} {q.gpu} serve {found.winner.rate:.3g} requests/s of this traffic within the "
            f"SLO, not {q.traffic.rate:g}; "
            f"the nearest that is feasible: {amount.nearest(machine, q.traffic, q.slo, found.winner.rate)}"
        )
    return Found(q, machine, found, "" if q.traffic.rate else amount.cut)


def _check_length(q: Question, m: Machine, amount: Amount) -> None:
    t, longest = q.traffic, m.shape.longest
    if t.prompt + t.answer <= longest:
        return
    said = f"prompt and answer have {t.prompt + t.answer:,.0f} tokens, {m.shape.name} takes {longest:,}"
    shorter = replace(t, prompt=longest - t.answer) if t.answer < longest else replace(t, prompt=1, answer=longest - 1)
    options = [f"--prompt {int(shorter.prompt)}", *([f"--answer {longest - 1}"] if t.answer >= longest else [])]
    nearest = _kept(q, m, amount.devices, shorter, options)
    raise BadPlan(f"{said}; the nearest that is feasible: {nearest}")


def _no_room(q: Question, m: Machine, amount: Amount) -> str:
    """What does not fit, and how many devices or which shorter requests would."""
    t, model = q.traffic, f"{m.shape.name} in {m.serving.expert_dtype}"
    request = f"a request of {t.prompt + t.answer:,.0f} tokens"
    if least := least_devices(m, t, amount.most):
        options = [f"--gpus {least}"] if q.gpus or not q.budget_h else []
        if q.budget_h and least * m.price_h > q.budget_h:
            options.append(f"--budget {least * m.price_h:g}")
        nearest = _kept(q, m, least, t, options)
        return f"{amount.devices} {q.gpu} do not hold {model} and {request}; the nearest that is feasible: {nearest}"
    low, high = 0, int(t.prompt)  # the longest prompt that fits, and one that does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(m, amount.most, replace(t, prompt=middle)) else (low, middle)
    said = f"no number of {q.gpu} up to {amount.most:,} holds {model}"
    if not low:
        return f"{said}: try --weights or a --gpu with more memory than {m.device.memory_bytes / 1e9:g} GB"
    shorter = replace(t, prompt=low)
    if not fits(m, amount.devices, shorter):  # of a given number of devices
        least = least_devices(m, shorter, amount.most)
        return f"{said} and {request}; the nearest that is feasible: " + _kept(
            q, m, least, shorter, [f"--prompt {low}", f"--gpus {least}"]
        )
    nearest = _kept(q, m, amount.devices, shorter, [f"--prompt {low}"])
    return f"{said} and {request}; the nearest that is feasible: {nearest}"


def _kept(q: Question, m: Machine, devices: int, traffic: Traffic, options: list[str]) -> str:
    """Options with which there is room, and those of an SLO that can be kept then."""
    try:
        answer(m, devices, traffic, q.slo, judged())
    except Infeasible as error:
        options = [*options, *error.options]
    except NoRoom:
        pass
    return " ".join(options)
