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
from services.planner.memory import Memory, on_device
from services.planner.prefill import Prefill, prefill
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.step import Step, colocated_step, separate_step
from services.planner.traffic import Slo, Traffic, percentile_s, waiting_s

Way = Literal["separate", "colocated", "prefill apart"]
HOUR_S, MILLION = 3600.0, 1e6
MOST_SEQUENCES = 1024  # of one device in one step
PREFILL_SHARE_MOST = 0.9  # of a device's time that prompts may take beside running answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The devices that are asked about, and what they serve."""

    shape: Shape
    device: Device
    link: Link
    serving: Serving
    price_h: float
    replicas: int = 1  # of each expert in separate pools
    node: int = 8  # devices among which a row that arrived once is spread over NVLink; for prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A deployment at its best batch. Rates are of all devices together; `sequences` of one attention device."""

    way: Way
    attention: int  # devices; all of them where experts are not apart
    experts: int  # devices of experts alone
    prefill: int  # devices of prompts alone
    serving: Serving
    sequences: int
    step: Step
    memory: Memory
    rate: float  # requests per second within the SLO
    ttft_s: float  # without a wait
    price_h: float

    @property
    def devices(self) -> int:
        return self.attention + self.experts + self.prefill

    def tokens_s(self, traffic: Traffic) -> float:
        """New tokens per second, of all devices."""
        return self.rate * traffic.answer

    def device_tokens_s(self, traffic: Traffic) -> float:
        return self.tokens_s(traffic) / self.devices

    def price(self, traffic: Traffic, rate: float = 0.0) -> float:
        """USD per million new tokens at `rate` requests per second; at full load if that is 0."""
        tokens = (rate or self.rate) * traffic.answer
        return self.devices * self.price_h / HOUR_S / tokens * MILLION if tokens else math.inf

    def ttft_percentile_s(self, traffic: Traffic, rate: float, share: float = 0.99) -> float:
        """Seconds to the first token at that rate, waiting included."""
        servers = self.prefill or self.attention
        utilization = rate / self.rate if self.rate else math.inf
        wait = waiting_s(utilization, self.ttft_s, servers, traffic.spread)
        return self.ttft_s + percentile_s(wait, utilization, share)


def evaluate(
    m: Machine, way: Way, split: tuple[int, int, int], sequences: int, traffic: Traffic, slo: Slo
) -> Candidate | None:
    """A deployment of `split` (attention, experts, prompts) devices, so many sequences on each; None beyond the SLO.

    A decode step is longer beside prompts: in each of its intervals they take the share of time that their tokens need.
    """
    attention, experts, prompts = split
    serving = m.serving if way == "separate" else replace(m.serving, overlap="sbo" if m.shape.shortcut else "tbo")
    memory = on_device(m.shape, serving, m.device.memory_bytes, 0 if way == "separate" else m.shape.experts / attention)
    load = Load(sequences * serving.tp, traffic.context)
    if way == "separate":
        pools = Pools(
            attention=attention, experts=experts, attention_device=m.device, expert_device=m.device, link=m.link
        )
        step = separate_step(m.shape, load, serving, pools)
    else:
        step = colocated_step(m.shape, load, serving, m.device, m.link, attention)
    fill = _prefill(m, way, serving, traffic, experts or prompts or attention)
    per_request = traffic.computed * fill.total_s
    if way == "separate":  # products of experts are on other devices; these must keep up as well
        per_request *= attention_share(m.shape)
    decode_rate = attention * sequences / (step.tpot_s * traffic.answer)
    if prompts:
        itl, rate = step.tpot_s, min(decode_rate, prompts / per_request if per_request else math.inf)
    else:
        share = per_request / (per_request + attention / decode_rate) if per_request else 0.0
        itl, rate = step.tpot_s / (1 - share), decode_rate * (1 - share)
        if share > PREFILL_SHARE_MOST:
            return None
        if way == "separate":
            rate = min(rate, _expert_rate(m.shape, fill, traffic, experts, step, decode_rate))
    # One prompt alone has its worker, and the experts of all.
    ttft = traffic.computed * fill.total_s / serving.tp + step.seconds * (1 if prompts else 2)
    if itl > slo.itl_s or ttft > slo.ttft_s or sequences > room(memory, traffic):
        return None
    return Candidate(
        way=way,
        attention=attention,
        experts=experts,
        prefill=prompts,
        serving=serving,
        sequences=sequences,
        step=replace(step, seconds=itl * step.tokens),
        memory=memory,
        rate=rate,
        ttft_s=ttft,
        price_h=m.price_h,
    )


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


def room(memory: Memory, traffic: Traffic) -> int:
    """How many sequences of this traffic one device's pages hold, and an engine runs."""
    return min(MOST_SEQUENCES, int(memory.cached_tokens // (traffic.prompt + traffic.answer)))


def attention_share(shape: Shape) -> float:
    """The share of a prompt's operations that are an attention device's, where experts are apart."""
    own = shape.sublayers * (shape.attention.projected + shape.dense_params) + shape.gate_params
    moe = shape.ffn_choices * shape.expert_params + shape.shared_params
    return own / (own + moe)
