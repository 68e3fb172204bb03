"""A plan as a page that a buyer can read, and as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.fitting_table import folded
from services.cli.planning.question import Found
from services.cli.planning.sizing import sizing
from services.planner.answer import USUAL_LOAD, Answer
from services.planner.deployment import Candidate
from services.planner.traffic import Slo, Traffic

GB = 1e9
FRONT_ROWS = 8


def show(found: Found) -> None:
    """Prints the verdict, the ways side by side, the winner's sizes and the frontier."""
    console = Console(highlight=False)
    q, answer = found.question, found.answer
    t, slo = q.traffic, q.slo
    console.print(
        Text(
            f"{found.machine.shape.name} on {answer.devices} {q.gpu} over {found.machine.link.name}, "
            f"{found.machine.serving.expert_dtype} weights, "
            f"at {found.machine.price_h:g} USD an hour each.\nTraffic: {t.prompt:,.0f} tokens in "
            f"({100 * t.cached:.0f} % cached), {t.answer:,.0f} out"
            f"{f', {t.rate:g} requests/s' if t.rate else ''}. SLO: {_ms(slo.itl_s)} between tokens, "
            f"{_s(slo.ttft_s)} to the first."
        )
    )
    console.print(Text("\n" + verdict(found)))
    console.print(_ways(found))
    console.print(_winner(found))
    console.print(_front(found))
    console.print(Text("\n".join(notes(found))))


def verdict(found: Found) -> str:
    """Separate or colocated, by how much, why, and how sure that is."""
    a = found.answer
    name, other = ("separate pools", "colocated experts")[:: 1 if a.winner.way == "separate" else -1]
    if math.isinf(a.margin):
        lead = f"{name} ({a.winner.way}), for want of another way."
    elif a.clear:
        lead = f"{name} ({a.winner.way}) serve {100 * a.margin:.0f} % more than {other}."
    else:
        lead = (
            f"{name} ({a.winner.way}) are {100 * a.margin:.0f} % ahead of {other}, within the model's error: "
            "undecided, measure before you buy."
        )
    off = a.off_by
    less, more = (f"up to {times:.2g} times too" if times > 1 else "never too" for times in (off.under, off.over))
    return (
        f"{lead[0].upper()}{lead[1:]} {a.why}\n"
        f"How sure: of published comparisons of the two the model has the sign right in {signs_in_words(a)}. Where "
        f"nothing was fitted it gave separate pools {less} little and {more} much ({off.tested} "
        f"rows): here a margin of more than {100 * a.decisive:.0f} % is clear; see docs/planner.md."
    )


def signs_in_words(a: Answer) -> str:
    """How often the sign is right, apart for rows that nothing was fitted on."""
    (right, tested), (fitting, fitted) = a.tested_signs, a.fitted_signs
    return f"{right} of {tested} that it was tested on, and {fitting} of {fitted} that it was fitted on"


def _ways(found: Found) -> Table:
    a, t = found.answer, found.question.traffic
    ordered = sorted(a.chosen.values(), key=lambda one: -one.rate)
    table = Table(*folded("", *(one.way for one in ordered)), title="The best of each way")

    def row(name: str, cells: list[str]) -> None:
        table.add_row(name, *cells)

    row(
        "devices: attention + experts + prompts",
        [f"{one.attention} + {one.experts} + {one.prefill}" for one in ordered],
    )
    row("requests/s within the SLO, with every place taken", [f"{one.rate:.4g}, {one.full:.4g}" for one in ordered])
    row("tokens/s per device", [f"{one.device_tokens_s(t):,.0f}" for one in ordered])
    row("tokens/s per user", [f"{one.step.user_tokens_s:.1f}" for one in ordered])
    row("USD per million new tokens", [f"{one.price(t):.3g}" for one in ordered])
    if t.rate:
        row("at the given rate", [f"{one.price(t, min(t.rate, one.rate)):.3g}" for one in ordered])
    at = f"{t.rate:g} requests/s" if t.rate else f"{100 * USUAL_LOAD:.0f} % of that"
    row(f"to the first token at {at}, p50 and p99, s", [_ttft(one, found) for one in ordered])
    row("tensor parallel, drafts", [f"{one.serving.tp}, {one.serving.drafts}" for one in ordered])
    row("sequences of an attention worker", [str(one.sequences) for one in ordered])
    return table


def _ttft(one: Candidate, found: Found) -> str:
    t = found.question.traffic
    rate = t.rate or USUAL_LOAD * one.rate
    if rate > one.rate:
        return "too long"
    return f"{one.ttft_percentile_s(t, rate, 0.5):.2g}, {one.ttft_percentile_s(t, rate):.2g}"


def _winner(found: Found) -> Table:
    size = sizing(found.machine, found.answer.winner, found.question.traffic)
    table = Table(*folded("", ""), title=f"Sizes: {found.answer.winner.way}", show_header=False)
    for name, value in size.rows():
        table.add_row(name, value)
    table.add_row("after the loss of one worker", f"{100 * found.answer.after_loss:.0f} % of the rate")
    return table


def _front(found: Found) -> Table:
    t = found.question.traffic
    table = Table(
        *folded("tokens/s per user", "tokens/s per device", "USD per million", "way", "sequences"),
        title="Frontier, without the SLO and with every place taken",
    )
    front = found.answer.front
    stride = max(1, math.ceil(len(front) / FRONT_ROWS))
    for one in front[::stride]:
        cells = (f"{one.step.user_tokens_s:.1f}", f"{one.device_tokens_s(t):,.0f}", f"{one.price(t):.3g}")
        table.add_row(*cells, one.way, str(one.sequences))
    return table


def notes(found: Found) -> list[str]:
    """What was assumed rather than published or measured."""
    device, link = found.machine.device, found.machine.link
    assumed = [
        f"{name}: {source}"
        for name, source in {**device.sources, **link.sources}.items()
        if name != "factors" and not source.startswith(("published", "measured"))
    ]
    lines = [found.cut[0].upper() + found.cut[1:] + "."] if found.cut else []
    lines.append(f"Factors of {device.name}: {device.sources.get('factors') or device.factors.fitted_on}.")
    if assumed:
        lines.append("Neither published nor measured here: " + "; ".join(assumed) + ".")
    return lines


def to_dict(found: Found) -> dict[str, Any]:
    """The plan as one JSON object, which `caracal status --plan` reads."""
    q, a, m = found.question, found.answer, found.machine
    return {
        "model": m.shape.name,
        "gpu": q.gpu,
        "devices": a.devices,
        "link": m.link.name,
        "weights": m.serving.expert_dtype,
        "kv": m.serving.kv_dtype,
        "usd_per_device_hour": m.price_h,
        "traffic": _traffic(q.traffic),
        "slo": _slo(q.slo),
        "winner": a.winner.way,
        "margin": None if math.isinf(a.margin) else a.margin,
        "decisive_margin": a.decisive,
        "clear": a.clear,
        "why": a.why,
        "off_by": {"under": a.off_by.under, "over": a.off_by.over, "rows": a.off_by.tested},
        "right_signs": {"tested": list(a.tested_signs), "fitted": list(a.fitted_signs)},
        "after_loss": a.after_loss,
        "notes": notes(found),
        "ways": {way: _way(found, one) for way, one in a.chosen.items()},
        "frontier": [
            {
                "way": one.way,
                "tokens_s_per_user": one.step.user_tokens_s,
                "tokens_s_per_device": one.device_tokens_s(q.traffic),
            }
            for one in a.front
        ],
    }


def _way(found: Found, one: Candidate) -> dict[str, Any]:
    t = found.question.traffic
    return {
        "attention": one.attention,
        "experts": one.experts,
        "prefill": one.prefill,
        "tp": one.serving.tp,
        "drafts": one.serving.drafts,
        "sequences": one.sequences,
        "requests_s": one.rate,
        "requests_s_full": one.full,
        "tokens_s_per_device": one.device_tokens_s(t),
        "tokens_s_per_user": one.step.user_tokens_s,
        "usd_per_million": one.price(t),
        "itl_ms": 1e3 * one.step.tpot_s,
        "ttft_s": one.ttft_s,
        **sizing(found.machine, one, t).to_dict(),
    }


def _traffic(t: Traffic) -> dict[str, float]:
    return {"requests_s": t.rate, "prompt": t.prompt, "answer": t.answer, "cached": t.cached, "spread": t.spread}


def _slo(slo: Slo) -> dict[str, float | None]:
    return {
        "itl_ms": None if math.isinf(slo.itl_s) else 1e3 * slo.itl_s,
        "ttft_p99_s": None if math.isinf(slo.ttft_s) else slo.ttft_s,
    }


def show_json(found: Found) -> None:
    print(json.dumps(to_dict(found)))


def _ms(seconds: float) -> str:
    return "any time" if math.isinf(seconds) else f"{1e3 * seconds:g} ms"


def _s(seconds: float) -> str:
    return "any time" if math.isinf(seconds) else f"{seconds:g} s"
