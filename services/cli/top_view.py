"""Reads a cluster for `caracal top`, and shows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from services.cli.fitting_table import FittingTable
from services.cli.gateway_client import ask_gateway, ask_page
from services.cli.gateway_url import gateway_url
from services.cli.run_state import NoCluster
from services.cli.top import Reading, Samples, Top, WorkerRow, compare, parse_page
from services.membership.overview import Overview

COLUMNS = ("worker", "state", "tok/s", "run+wait", "KV", "experts", "busy", "zero", "exposed", "req/s")
# What a narrow terminal does without, the first one first. The worker and its tokens are always there.
OPTIONAL = ("busy", "zero", "req/s", "state", "exposed", "experts", "KV", "run+wait")
PAGE_TIMEOUT_S = 1.0
READERS = 16


class Reader:
    """Reads /cluster of a gateway, and /metrics of every process that can be reached from here."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._unreachable: set[str] = set()
        self._pool = ThreadPoolExecutor(READERS)

    def read(self) -> Reading:
        """Raises NoCluster when the gateway does not answer."""
        overview = ask_gateway(self._url)
        addresses = {one.worker_id: one.metrics_address for one in overview.workers if one.metrics_address}
        asked = [worker for worker, address in addresses.items() if address not in self._unreachable]
        pages = dict(zip(asked, self._pool.map(lambda worker: self._page(addresses[worker]), asked), strict=True))
        found = {worker: page for worker, page in pages.items() if page is not None}
        routers = [one.worker_id for one in overview.workers if one.role == "router"]
        if len(routers) == 1 and routers[0] not in found and (page := self._page(gateway_url(self._url))) is not None:
            found[routers[0]] = page  # behind a port-forward
        return Reading(time.monotonic(), overview, found)

    def _page(self, address: str) -> Samples | None:
        """The samples of a page; an address that does not answer is not asked again."""
        try:
            return parse_page(ask_page(address, "/metrics", PAGE_TIMEOUT_S))
        except (NoCluster, ValueError):
            self._unreachable.add(address)
            return None


def top(url: str, interval_s: float, once: bool, as_json: bool) -> None:
    """Shows the cluster of a gateway over intervals of so many seconds, until Ctrl-C; or once. Raises NoCluster."""
    reader = Reader(url)
    before = reader.read()

    def next_top() -> tuple[Top, Overview]:
        nonlocal before
        time.sleep(interval_s)
        now = reader.read()
        found, before = compare(before, now), now
        return found, now.overview

    if as_json:
        _print_json(next_top, once)
        return
    console = Console()
    if once:
        console.print(render(*next_top(), url))
        return
    with Live(Text(f"{url} · reading for {interval_s:g} s"), console=console, auto_refresh=False) as live:
        while True:
            try:
                live.update(render(*next_top(), url), refresh=True)
            except NoCluster as error:
                live.update(Text(str(error)), refresh=True)


def _print_json(next_top: Callable[[], tuple[Top, Overview]], once: bool) -> None:
    """One object, or one a line and interval."""
    while True:
        print(json.dumps(next_top()[0].to_dict()), flush=True)
        if once:
            return


def render(found: Top, overview: Overview, name: str) -> Group:
    """Two lines of the whole cluster, and a row for each worker."""
    return Group(
        Text(f"{name} · epoch {overview.epoch} · last {found.interval_s:.1f} s"),
        Text(f"{found.requests_per_s:.1f} requests/s · {found.tokens_per_s:.0f} tokens/s"),
        Text(
            f"first token p50 {_ms(found.ttft_p50_ms)}, p99 {_ms(found.ttft_p99_ms)} · "
            f"between tokens p50 {_ms(found.itl_p50_ms)}, p99 {_ms(found.itl_p99_ms)}"
        ),
        *([Text(f"requests are not served: {why}")] if (why := overview.not_ready_reason) else []),
        FittingTable(COLUMNS, [_cells(row) for row in found.workers], OPTIONAL),
    )


def _cells(row: WorkerRow) -> tuple[str, ...]:
    return (
        row.worker,
        row.state,
        _number(row.tokens_per_s),
        "" if row.running is None else f"{row.running}+{row.waiting}",
        _share(row.kv_usage),
        "" if row.experts is None else str(row.experts),
        _share(row.busy),
        _share(row.zero_share),
        " ".join(filter(None, ["" if row.exposed_ms is None else _ms(row.exposed_ms), _share(row.exposed_share)])),
        "" if row.requests_per_s is None else f"{row.requests_per_s:.1f}",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
