"""What arrives, and what is promised: rates, lengths, SLO."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests per second, and tokens of each. `spread`: standard deviation of lengths over their mean."""

    rate: float = 0.0  # 0: as many as fit
    prompt: float = 4000.0
    answer: float = 1000.0
    cached: float = 0.0  # share of prompts' tokens that the prefix cache has
    spread: float = 1.0

    @property
    def computed(self) -> float:
        """Prompt tokens of a request that have to be computed."""
        return self.prompt * (1 - self.cached)

    @property
    def context(self) -> float:
        """Mean tokens before a new one, over the life of an answer."""
        return self.prompt + self.answer / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Seconds: until the first token in the 99th percentile of waits, and between two tokens on average."""

    ttft_s: float = math.inf
    itl_s: float = math.inf


def waiting_s(utilization: float, service_s: float, servers: float, spread: float) -> float:
    """Mean wait before one of so many servers, by Allen and Cunneen's formula; infinite when they cannot keep up."""
    if utilization >= 1:
        return math.inf
    busy = math.pow(utilization, math.sqrt(2 * (servers + 1)) - 1)
    return busy / (servers * (1 - utilization)) * service_s * (1 + spread**2) / 2


def percentile_s(mean_wait_s: float, utilization: float, share: float = 0.99) -> float:
    """A percentile of the wait: exponential above zero, and zero with the chance that a server is free."""
    if mean_wait_s <= 0 or not utilization > 0:
        return 0.0
    if math.isinf(mean_wait_s):
        return math.inf
    above = max(0.0, math.log(utilization / (1 - share)))
    return mean_wait_s / utilization * above
