"""One way to use the devices at hand: what it serves within an SLO, and what it costs.

Three ways: `separate` (attention and expert devices, as Caracal deploys them), `colocated` (every device has
attention and its share of the experts), `prefill apart` (colocated, with prompts on devices of their own).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from services.planner.device import Device, Link
from services.planner.layer import Pools
from services.planner.memory import Memory, on_device, step_tokens
from services.planner.prefill import Prefill, prefill
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.step import Step, colocated_step, separate_step
from services.planner.traffic import Slo, Traffic, percentile_s, waiting_s

Way = Literal["separate", "colocated", "prefill apart"]
Split = tuple[int, int, int]  # devices of attention, of experts alone, of prompts alone
HOUR_S, MILLION = 3600.0, 1e6
HALVINGS = 24  # of the rate at which a promise holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The devices that are asked about, and what they serve."""

    shape: Shape
    device: Device
    link: Link
    serving: Serving
    price_h: float
    replicas: int = 1  # of each expert in separate pools

    @property
    def node(self) -> int:
        """Devices of a machine, among which a prompt's row that arrived once is spread over NVLink."""
        return 1 if self.device.platform == "cpu" or self.link.domain else 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A deployment with so many sequences on each attention worker, which is `tp` devices. Rates are of all together.

    `full`: requests per second with every place taken; `rate`: of those within the SLO, as `within` has it.
    """

    way: Way
    attention: int  # devices; all of them where experts are not apart
    experts: int  # devices of experts alone
    prefill: int  # devices of prompts alone
    serving: Serving
    sequences: int
    step: Step
    memory: Memory
    full: float
    rate: float
    ttft_s: float  # without a wait
    price_h: float

    @property
    def split(self) -> Split:
        return self.attention, self.experts, self.prefill

    @property
    def devices(self) -> int:
        return sum(self.split)

    @property
    def workers(self) -> int:
        """Attention workers, without those of prompts alone."""
        return self.attention // self.serving.tp

    def tokens_s(self, traffic: Traffic) -> float:
        """New tokens per second, of all devices."""
        return self.rate * traffic.answer

    def device_tokens_s(self, traffic: Traffic) -> float:
        return self.tokens_s(traffic) / self.devices

    def price(self, traffic: Traffic, rate: float = 0.0) -> float:
        """USD per million new tokens at `rate` requests per second; at `self.rate` if that is 0."""
        tokens = (rate or self.rate) * traffic.answer
        return self.devices * self.price_h / HOUR_S / tokens * MILLION if tokens else math.inf

    def ttft_percentile_s(self, traffic: Traffic, rate: float, share: float = 0.99) -> float:
        """Seconds to the first token at that rate: of the prompt, and of the waits for a worker and for a place."""
        utilization = rate / self.full
        prompts = (self.prefill or self.attention) // self.serving.tp
        waits = (self.ttft_s, prompts), (traffic.answer * self.step.tpot_s, self.sequences * self.workers)
        return self.ttft_s + sum(
            percentile_s(waiting_s(utilization, service_s, servers, traffic.spread), utilization, share)
            for service_s, servers in waits
        )

    def holds(self, slo: Slo) -> bool:
        """Whether both promises hold where nobody waits."""
        return self.step.tpot_s <= slo.itl_s and self.ttft_s <= slo.ttft_s

    def within(self, slo: Slo, traffic: Traffic) -> float:
        """The most requests per second at which both promises hold; 0 if they do at none."""
        if not self.holds(slo):
            return 0.0
        if math.isinf(slo.ttft_s):
            return self.full
        low, high = 0.0, self.full
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            held = self.ttft_percentile_s(traffic, middle) <= slo.ttft_s
            low, high = (middle, high) if held else (low, middle)
        return low


def evaluate(m: Machine, way: Way, split: Split, sequences: int, traffic: Traffic) -> Candidate:
    """A deployment of `split` with so many sequences on each attention worker, whatever its speed.

    A decode step is longer beside prompts: in each of its intervals they take the share of time that their tokens need.
    """
    attention, experts, prompts = split
    serving = m.serving if way == "separate" else replace(m.serving, overlap="sbo" if m.shape.shortcut else "tbo")
    step = _step(m, way, split, serving, Load(sequences, traffic.context))
    fill = _prefill(m, way, serving, traffic, experts or prompts or attention)
    per_request = traffic.computed * fill.total_s
    if way == "separate":  # products of experts are on other devices; these must keep up as well
        per_request *= attention_share(m.shape)
    decode_rate = attention / serving.tp * sequences / (step.tpot_s * traffic.answer)
    if prompts:
        itl, rate = step.tpot_s, min(decode_rate, prompts / per_request if per_request else math.inf)
    else:
        share = per_request / (per_request + attention / decode_rate) if per_request else 0.0
        itl, rate = step.tpot_s / (1 - share), decode_rate * (1 - share)
        if way == "separate":
            rate = min(rate, _expert_rate(m.shape, fill, traffic, experts, step, decode_rate))
    # One prompt alone has its worker, and the experts of all.
    ttft = traffic.computed * fill.total_s / serving.tp + step.seconds * (1 if prompts else 2)
    return Candidate(
        way=way,
        attention=attention,
        experts=experts,
        prefill=prompts,
        serving=serving,
        sequences=sequences,
        step=replace(step, seconds=itl * step.tokens),
        memory=memory_of(m, way, split, serving),
        full=rate,
        rate=rate,
        ttft_s=ttft,
        price_h=m.price_h,
    )


def _step(m: Machine, way: Way, split: Split, serving: Serving, load: Load) -> Step:
    attention, experts, _ = split
    if way != "separate":
        return colocated_step(m.shape, load, serving, m.device, m.link, attention)
    pools = Pools(
        attention=attention,
        experts=experts,
        attention_device=m.device,
        expert_device=m.device,
        link=m.link,
        replicas=m.replicas,
    )
    return separate_step(m.shape, load, serving, pools)


def memory_of(m: Machine, way: Way, split: Split, serving: Serving) -> Memory:
    """What an attention device of the deployment holds."""
    held = 0.0 if way == "separate" else m.shape.experts / split[0]
    return on_device(m.shape, serving, m.device.memory_bytes, held, platform=m.device.platform)


def room(m: Machine, way: Way, split: Split, traffic: Traffic) -> int:
    """How many sequences of this traffic an attention worker has pages for, and runs at once; 0: none fits."""
    tokens, s = traffic.prompt + traffic.answer, m.serving
    if split[2]:
        held = m.shape.experts / split[2]
        prompts = on_device(m.shape, s, m.device.memory_bytes, held, platform=m.device.platform)
        if not prompts.sequences(traffic.prompt):
            return 0
    # Each rank of a worker has all of its pages, or its heads' part of all of them.
    return min(memory_of(m, way, split, s).sequences(tokens), step_tokens(m.device.platform) // (1 + s.drafts))


def _prefill(m: Machine, way: Way, serving: Serving, traffic: Traffic, holders: int) -> Prefill:
    """Prefill of one device. Inside nodes with a fast link, a row goes once to each node, whose sum comes back."""
    if way != "separate" and holders > m.node > 1:
        serving, holders = replace(serving, deduplicated=True, summed=True), math.ceil(holders / m.node)
    return prefill(m.shape, traffic.prompt, serving, m.device, m.link, holders)


def _expert_rate(shape: Shape, fill: Prefill, traffic: Traffic, experts: int, step: Step, decode_rate: float) -> float:
    """Requests per second that expert devices keep up with: of prompts, in time and in bytes, and of decode steps."""
    prompt_s = traffic.computed * max(fill.compute_s * (1 - attention_share(shape)), fill.exchange_s)
    decode_s = step.layer.expert_busy * experts / decode_rate
    return experts / (prompt_s + decode_s)


def attention_share(shape: Shape) -> float:
    """The share of a prompt's operations that are an attention device's, where experts are apart."""
    own = shape.sublayers * (shape.attention.projected + shape.dense_params) + shape.gate_params
    moe = shape.ffn_choices * shape.expert_params + shape.shared_params
    return own / (own + moe)
