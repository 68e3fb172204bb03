"""The frontier of a plan as a picture."""

from __future__ import annotations

from services.cli.planning.question import Found
from services.planner.plot import svg
from services.planner.search import pareto


def frontier_svg(found: Found) -> str:
    """tokens/s per device against tokens/s per user, for each way."""
    t, front = found.question.traffic, found.answer.all_found
    ways = dict.fromkeys(one.way for one in front)
    series: dict[str, list[tuple[float, float]]] = {
        way: [
            (one.step.user_tokens_s, one.device_tokens_s(t))
            for one in pareto([one for one in front if one.way == way], t)
        ]
        for way in ways
    }
    title = f"{found.machine.shape.name} on {found.answer.devices} {found.question.gpu} (predicted)"
    return svg(title, "tokens/s per user", "tokens/s per device", series)
