"""How many devices a plan is for: given, as many as money buys, or the fewest that serve a rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.cli.planning.errors import BadPlan
from services.planner.answer import Infeasible, answer, most_within
from services.planner.deployment import Machine
from services.planner.search import NoRoom, least_devices
from services.planner.traffic import Slo, Traffic

MOST_DEVICES = 8192
LOOKS = 8  # at whether fewer devices would do


@dataclass(frozen=True, slots=True)
class Amount:
    """`devices`: that are given or bought; `most`: that may be planned for at all; `cut`: why fewer than are bought."""

    devices: int
    most: int
    limit: str  # what `most` comes from
    cut: str = ""

    def least_for(self, m: Machine, traffic: Traffic, slo: Slo) -> int:
        """The fewest devices of these, in whole machines where there are any, that serve the rate within the SLO.

        Raises NoRoom, Infeasible, BadPlan.
        """
        step = m.node
        first = least_devices(m, traffic, self.devices)
        if not first:
            raise NoRoom
        low, high, rates = -(-first // step) - 1, -(-first // step), dict[int, float]()

        def served(steps: int) -> float:
            devices = min(steps * step, self.devices)
            if devices not in rates:
                rates[devices] = most_within(m, devices, traffic, slo)
            return rates[devices]

        while (rate := served(high)) < traffic.rate:
            if high * step >= self.devices:
                raise self._too_few(m, traffic, slo, rate)
            # A little less than in proportion, so that the answer is not overshot; twice as many where none serves.
            wanted = int(high * min(4.0, 0.97 * traffic.rate / rate)) if rate else 2 * high
            low, high = high, min(-(-self.devices // step), max(high + 1, wanted))
        for _ in range(LOOKS):
            if high - low <= 1:
                break
            guess = round(high * traffic.rate / served(high))
            middle = min(high - 1, max(low + 1, guess))
            low, high = (low, middle) if served(middle) >= traffic.rate else (middle, high)
        return min(high * step, self.devices)

    def _too_few(self, m: Machine, traffic: Traffic, slo: Slo, rate: float) -> BadPlan | Infeasible:
        if not rate:
            try:
                answer(m, self.devices, traffic, slo, [])
            except Infeasible as error:
                return error
        return BadPlan(
            f"{traffic.rate:g} requests/s take more than the {self.devices:,} {m.device.name} {self.limit}; "
            f"the nearest that is feasible: --rate {_down(rate)}"
        )

    def nearest(self, m: Machine, traffic: Traffic, slo: Slo, rate: float) -> str:
        """What comes nearest where so many devices serve `rate` and not the wanted one."""
        try:
            enough = Amount(self.most, self.most, self.limit).least_for(m, traffic, slo)
        except (BadPlan, Infeasible):
            return f"--rate {_down(rate)}"
        return f"--rate {_down(rate)}, or --gpus {enough}"


def amount_of(gpus: int, budget_h: float, m: Machine) -> Amount:
    """Raises BadPlan where a link does not join so many devices, or the money buys none, or not those."""
    most, limit, domain = MOST_DEVICES, "that are planned for at most", m.link.domain
    if domain:
        most, limit = min(most, domain), f"that {m.link.name} joins"
    name, price = m.device.name, m.price_h
    bought = int(budget_h / price * (1 + 1e-9)) if budget_h else 0
    if budget_h and bought < 1:
        raise BadPlan(f"{budget_h:g} USD an hour buy no {name} at {price:g}; the nearest: --budget {price:g}")
    if budget_h and gpus > bought:
        raise BadPlan(
            f"{gpus} {name} at {price:g} cost {gpus * price:g} USD an hour, --budget is {budget_h:g}; the nearest that "
            f"is feasible: --gpus {bought}"
        )
    if gpus > most:
        other = ", or --link infiniband" if domain else ""
        raise BadPlan(
            f"{gpus} {name} are more than the {most:,} {limit}; the nearest that is feasible: --gpus {most}{other}"
        )
    if gpus:
        return Amount(gpus, most, limit)
    if bought > most:
        return Amount(most, most, limit, f"--budget buys {bought:,} {name}; this is a plan for the {most:,} {limit}")
    if bought:
        return Amount(bought, most, f"that --budget {budget_h:g} buys")
    return Amount(most, most, limit)


def _down(value: float) -> str:
    """Rounded down to three digits, so that it can be served."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"
