"""What $0.70 per million at more than 100 tokens/s per user takes on each GPU: decode alone, and with prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.cli.planning.question import Question, machine_of
from services.planner.deployment import Candidate, Machine, Split, evaluate, room
from services.planner.traffic import Slo, Traffic

GPUS = ("h800", "h200", "b200")
DEVICES, USER_TOKENS_S, PRICE, MOST_SEQUENCES = 128, 100.0, 0.70, 64  # of one device
SPLIT: Split = (DEVICES, 0, 0)
DECODE = Traffic(prompt=4500, answer=1000, cached=1.0)  # 5,000 tokens before a new one, on average, as in Table 6
WHOLE = Traffic(prompt=4500, answer=1000)


@dataclass(frozen=True, slots=True)
class FastUsers:
    """The cheapest deployments of one GPU that give users so much: for decode alone, and with prompts."""

    gpu: str
    price_h: float
    decode: Candidate | None
    whole: Candidate | None

    @property
    def usd(self) -> float | None:
        return self.decode.price(DECODE) if self.decode else None


def fast_users(gpu: str) -> FastUsers:
    machine = machine_of(Question(model="flash-chat", gpu=gpu, gpus=DEVICES, traffic=DECODE, slo=Slo()))
    return FastUsers(gpu, machine.price_h, cheapest(machine, DECODE), cheapest(machine, WHOLE))


def cheapest(machine: Machine, traffic: Traffic) -> Candidate | None:
    """The cheapest of every batch that is small enough, and of attention on one, two or four devices."""
    fast = []
    for tp in (1, 2, 4):
        m = replace(machine, serving=replace(machine.serving, tp=tp, mlp_tp=4))
        for sequences in range(1, min(MOST_SEQUENCES * tp, room(m, "colocated", SPLIT, traffic)) + 1):
            one = evaluate(m, "colocated", SPLIT, sequences, traffic)
            fast += [one] if one.holds(Slo(itl_s=1 / USER_TOKENS_S)) else []
    return max(fast, key=lambda one: one.device_tokens_s(traffic), default=None)
