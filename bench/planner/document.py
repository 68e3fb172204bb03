"""The tables of docs/planner.md, between their marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.document_tables import table, with_blocks
from bench.planner.fast_users import DECODE, GPUS, PRICE, WHOLE, fast_users
from bench.planner.fits import left_out, on_one_row
from bench.planner.machine_table import machine_table
from services.cli.planning.profiles import device, link, names
from services.cli.planning.question import Question, ask, profiles
from services.planner.evidence import decisive, judge, signs, sureness
from services.planner.report_rows import TABLE_6
from services.planner.rows import Kind, Use
from services.planner.search import WAYS
from services.planner.traffic import Slo, Traffic

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "planner.md"
POOLS = (("h800", 128), ("h200", 64), ("h20", 64), ("b200", 64), ("gb200", 72))
USES: tuple[Use, ...] = ("tested", "fitted")
KINDS: tuple[Kind, ...] = ("theory", "colocated", "separate", "gain of separating", "prefill")


def tables() -> dict[str, str]:
    """Each table by the name of its marks."""
    return {
        "rows": rows_table(),
        "fits": fits_table(),
        "ways": ways_table(),
        "fast users": fast_table(),
        "devices": devices_table(),
        "links": links_table(),
        "this machine": machine_table(),
    }


def filled(text: str) -> str:
    """The document with every table made anew."""
    return with_blocks(text, "python -m bench.planner", tables())


def rows_table() -> str:
    judged = judge(profiles())
    body = []
    for one in judged:
        row = one.row
        error = f"{100 * one.error:+.1f} points" if row.relative else f"{100 * one.error:+.1f} %"
        body.append((row.name, row.source, row.unit, _number(row.published), _number(one.predicted), error, row.use))
    said = [f"{kind}: {s.typical:.2f} ({s.tested} rows)" for kind in KINDS if (s := sureness(judged, kind)).tested]
    gain = sureness(judged, "gain of separating")
    less, more = (f"up to {times:.2f} times too" if times > 1 else "never too" for times in (gain.under, gain.over))
    foot = (
        "Where nothing was fitted, the model is off by a factor of (e to the root of the mean square of ln(predicted / "
        f"published)) {'; '.join(said)}. Gains of separating: {less} small, {more} large.\n\n"
        "Separate or colocated, the sign is right in: "
        + "; ".join(f"{use}: {right} of {asked}" for use in USES for right, asked in (signs(judged, use),))
        + f". Separate pools are clearly ahead from {100 * (decisive(judged, apart=True) - 1):.0f} % on, colocated "
        f"experts from {100 * (decisive(judged, apart=False) - 1):.0f} % on."
    )
    return table(("what", "source", "unit", "published", "predicted", "error", "use"), body) + "\n\n" + foot


def fits_table() -> str:
    h800, wire = device("h800"), link("infiniband")
    kinds = [f"{kv}, {context}, {sequences}" for kv, context, sequences, _ in TABLE_6]
    body = []
    for number, kind in enumerate(kinds):
        fit = on_one_row(h800, wire, number)
        body.append((f"efficiency on {kind}", f"{fit.factors.efficiency:.3f}", *_errors(fit.errors, number)))
    for number, fit in enumerate(left_out(h800, wire)):
        f = fit.factors
        name = f"all but {kinds[number]}"
        cells = [f"{100 * error:+.1f} %" if place == number else "" for place, error in enumerate(fit.errors)]
        body.append((name, f"{f.efficiency:.2f}, {f.overlap_loss:.1f}, {1e6 * f.op_s:.0f} µs", *cells))
    return table(("fitted on", "factors", *kinds), body)


def _errors(found: Sequence[float], fitted: int) -> list[str]:
    return ["fitted" if number == fitted else f"{100 * error:+.1f} %" for number, error in enumerate(found)]


def fast_table() -> str:
    body = []
    for gpu in GPUS:
        found = fast_users(gpu)
        one, whole = found.decode, found.whole
        if one is None or found.usd is None:
            body.append((gpu, f"{found.price_h:g}", "does not reach it", "", "", "", ""))
            continue
        body.append(
            (
                gpu,
                f"{found.price_h:g}",
                f"{one.way}, TP{one.serving.tp}, {one.sequences} sequences of a worker",
                f"{one.step.user_tokens_s:.1f}, {one.device_tokens_s(DECODE):.0f}",
                f"{found.usd:.2f}",
                f"{100 * (PRICE / found.usd - 1):+.0f} %",
                f"{whole.price(WHOLE):.2f}" if whole else "does not reach it",
            )
        )
    header = (
        "GPU",
        "USD an hour",
        "cheapest of 128",
        "tokens/s per user, per GPU",
        "USD per million, decode alone",
        "margin to 0.70",
        "with prompts of 4,500",
    )
    return table(header, body)


def ways_table() -> str:
    """Requests per second of each way, for the same traffic and SLO."""
    body = []
    for gpu, count in POOLS:
        question = Question(model="flash-chat", gpu=gpu, gpus=count, traffic=Traffic(), slo=Slo(ttft_s=5.0, itl_s=0.05))
        found = ask(question)
        chosen, a = found.answer.chosen, found.answer
        cells = [f"{chosen[way].rate:.3g}" if way in chosen else "does not fit" for way in WAYS]
        apart = chosen.get("separate")
        ratio = f"{apart.attention}:{apart.experts}" if apart else ""
        margin = f"{a.winner.way} by {100 * a.margin:.0f} %{'' if a.clear else ', undecided'}"
        body.append((f"{count} {gpu}, {found.machine.link.name}", *cells, ratio, margin))
    header = ("devices", *(f"{way}, requests/s" for way in WAYS), "attention:experts", "separate or colocated")
    return table(header, body)


def devices_table() -> str:
    body = []
    for name in names("devices"):
        one = device(name)
        flops = ", ".join(f"{dtype} {peak / 1e12:g}" for dtype, peak in one.flops.items())
        f = one.factors
        factors = f"{f.efficiency:g}, {f.overlap_loss:g}, {1e6 * f.op_s:g} µs"
        sources = "; ".join(f"{key}: {value}" for key, value in one.sources.items())
        body.append(
            (
                name,
                f"{one.memory_bytes / 1e9:g}",
                f"{one.memory_bytes_s / 1e9:g}",
                flops,
                factors,
                f"{one.price_h:g}",
                sources,
            )
        )
    return table(("device", "GB", "GB/s", "TFLOPS", "efficiency, loss, op", "USD/h", "sources"), body)


def links_table() -> str:
    body = []
    for name in names("links"):
        one = link(name)
        sources = "; ".join(f"{key}: {value}" for key, value in one.sources.items())
        figures = (f"{one.bytes_s / 1e9:g}", f"{1e6 * one.latency_s:g}", f"{1e6 * one.message_s:g}")
        body.append((name, *figures, str(one.domain or "any"), sources))
    return table(("link", "GB/s each way", "latency, µs", "a message, µs", "joins", "sources"), body)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 200 else f"{value:.3g}"
