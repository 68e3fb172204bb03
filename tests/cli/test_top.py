"""`caracal top`: rates and percentiles of an interval, and what narrow terminals show of them."""

from __future__ import annotations

import io
import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from rich.console import Console

from services.cli.top import Reading, Samples, compare, parse_page, quantile
from services.cli.top_view import COLUMNS, OPTIONAL, render
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.router.requests.metrics import RequestMetrics

STATS = {"running": 3.0, "waiting": 2.0, "kv_pages_used": 5.0, "kv_pages_total": 10.0, "zero_share": 0.4}


def record(role: str, stats: dict[str, float], number: int = 0, boot: str = "b") -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"{role}-{number}",
        role=role,
        address="a:1",
        boot_id=boot,
        epoch=3,
        loaded=16 if role == "expert" else 0,
        stats=stats,
    )


def overview(**stats: float) -> Overview:
    return Overview(epoch=3, workers=(record("expert", {}), record("attention", STATS | stats), record("router", {})))


class Router:
    """A router's real metrics."""

    def __init__(self) -> None:
        self.metrics = RequestMetrics("tiny", CollectorRegistry())

    def page(self) -> Samples:
        return parse_page(generate_latest(self.metrics.registry).decode())


def attention_page(tokens: int, ffn: int, zero: int, exposed: float, steps: int) -> Samples:
    registry = CollectorRegistry()
    Counter("caracal:generation_tokens", "x", registry=registry).inc(tokens)
    choices = Counter("caracal_moe_choices", "x", ["layer", "kind"], registry=registry)
    for layer in ("0", "1"):
        choices.labels(layer, "ffn").inc(ffn / 2)
        choices.labels(layer, "zero").inc(zero / 2)
    Counter("caracal_moe_exposed_seconds", "x", ["layer"], registry=registry).labels("0").inc(exposed)
    Counter("caracal_moe_round_trip_seconds", "x", ["layer"], registry=registry).labels("0").inc(2 * exposed)
    Counter("caracal_engine_steps", "x", registry=registry).inc(steps)
    return parse_page(generate_latest(registry).decode())


def test_rates_are_those_of_the_interval() -> None:
    router = Router()
    router.metrics.success("stop").inc(1000)
    router.metrics.first_token.observe(100.0)
    before = Reading(
        10.0, overview(), {"router-0": router.page(), "attention-0": attention_page(5000, 100, 900, 9.0, 70)}
    )
    router.metrics.success("length").inc(7)
    router.metrics.failure("no_worker").inc(1)
    for _ in range(100):
        router.metrics.first_token.observe(0.05)
        router.metrics.each_token.between(0.004, 1)
    now = Reading(12.0, overview(), {"router-0": router.page(), "attention-0": attention_page(5600, 160, 940, 9.5, 80)})
    found = compare(before, now)
    assert found.requests_per_s == 4.0
    assert found.tokens_per_s == 300.0
    assert found.ttft_p99_ms is not None
    assert found.ttft_p99_ms < 100, "the slow request was before the interval"
    assert found.itl_p50_ms is not None
    assert 0 < found.itl_p50_ms < 10
    router_row, attention, expert = found.workers
    assert (router_row.worker, router_row.requests_per_s) == ("router-0", 4.0)
    assert (attention.tokens_per_s, attention.running, attention.waiting, attention.kv_usage) == (300.0, 3, 2, 0.5)
    assert attention.zero_share == 0.4
    assert attention.exposed_ms == pytest.approx(50.0)
    assert attention.exposed_share == pytest.approx(0.5)
    assert (expert.experts, expert.busy) == (16, None), "its page could not be read"


def test_a_restarted_worker_counts_from_zero() -> None:
    before = Reading(0.0, overview(), {"attention-0": attention_page(5000, 100, 0, 9.0, 70)})
    now = Reading(2.0, overview(), {"attention-0": attention_page(40, 10, 10, 1.0, 4)})
    assert compare(before, now).tokens_per_s == 20.0


def test_without_pages_the_leases_give_what_they_have() -> None:
    before, now = Reading(0.0, overview(generation_tokens=100)), Reading(2.0, overview(generation_tokens=160))
    attention = compare(before, now).workers[1]
    assert (attention.tokens_per_s, attention.zero_share) == (30.0, 0.4)
    again = Overview(workers=(record("attention", STATS | {"generation_tokens": 5.0}, boot="other"),))
    assert compare(before, Reading(2.0, again)).workers[0].tokens_per_s is None, "another process since"
    empty = compare(before, now)
    assert (empty.ttft_p50_ms, empty.requests_per_s) == (None, 0.0)


def test_quantiles_are_prometheus() -> None:
    buckets = [(0.1, 10.0), (0.2, 30.0), (0.4, 40.0), (math.inf, 40.0)]
    assert quantile(buckets, 0.5) == pytest.approx(150.0)
    assert quantile(buckets, 1.0) == pytest.approx(400.0)
    assert quantile(buckets, 0.0) == pytest.approx(0.0)
    assert quantile([(0.1, 0.0), (math.inf, 5.0)], 0.5) == pytest.approx(100.0), "the greatest bound there is"
    assert quantile([(0.1, 0.0), (math.inf, 0.0)], 0.5) is None
    assert quantile([], 0.5) is None


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_what_is_shown_is_whole_on_any_width(width: int) -> None:
    workers = tuple(record(role, STATS, number) for role in ("router", "attention", "expert") for number in range(11))
    pages = {f"attention-{n}": attention_page(100, 60, 40, 0.5, 9) for n in range(11)}
    before = Reading(0.0, Overview(workers=workers), {name: attention_page(0, 0, 0, 0.0, 0) for name in pages})
    found = compare(before, Reading(2.0, Overview(workers=workers), pages))
    out = io.StringIO()
    Console(file=out, width=width).print(render(found, Overview(workers=workers), "http://127.0.0.1:8000"))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    left_out = (
        shown.rpartition(f"left out on {width} columns: ")[2].replace(",", "").split() if "left out" in shown else []
    )
    assert tuple(left_out) == OPTIONAL[: len(left_out)], "the least important ones"
    rows = [line for line in shown.splitlines() if line.strip().startswith("attention-")]
    assert len(rows) == 11
    cells = {"tok/s": "50", "run+wait": "3+2", "KV": "50%", "zero": "40%", "exposed": "55.6 ms 50%", "state": "serving"}
    assert set(cells) < set(COLUMNS)
    for name, cell in cells.items():
        assert all((cell in row.split("attention")[1]) == (name not in left_out) or cell == "50%" for row in rows), name
    assert ("left out" in shown) == (width < 100)


def test_a_page_that_is_none_raises() -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_page("<html>{</html>")
    registry = CollectorRegistry()
    Histogram("h", "x", registry=registry).observe(1)
    assert ("h_count", "") in parse_page(generate_latest(registry).decode())
