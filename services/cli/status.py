"""`caracal status`: one table of the workers, with their load and the time they wait for experts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli.gateway_client import ask_gateway, ask_ready
from services.cli.numerics import render_numerics
from services.cli.run_state import NoCluster, RunState, find
from services.cli.scale import serves
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable

View = Callable[[Overview, str], Group]

# Short, since the table has to fit 80 columns. `run+wait` counts sequences, `zero` is the share of top-k choices that
# fell on zero experts, `exposed` the wait for experts per layer and its share of the round trip.
COLUMNS = ("worker", "state", "experts", "KV", "run+wait", "zero", "exposed", "metrics")


def status(watch: bool, gateway: str = "", numerics: bool = False) -> bool:
    """Shows the cluster of the gateway at that URL, else the one running here; returns whether it can serve requests.

    With `numerics`, what its workers' bits depend on instead of the workers. Raises NoCluster, RedisUnavailable.
    """
    view = render_numerics if numerics else render
    if gateway:
        served = show(lambda: ask_gateway(gateway), gateway, watch, view)
        return _print_not_ready(ask_ready(gateway)) if served else False
    state = find()
    if not state.redis_url:
        raise NoCluster(f"no cluster at {state.url} was started here: set CARACAL_REDIS_URL, or give --gateway")
    return show(lambda: asyncio.run(_read(state)), state.url or "gateway unknown", watch, view)


def show(read: Callable[[], Overview], name: str, watch: bool, view: View) -> bool:
    """Prints the overview once, or every second; then errors of `read` after the first time replace the table."""
    first = view(overview := read(), name)
    if not watch:
        Console().print(first)
        return _print_not_ready(overview.not_ready_reason)
    with Live(first, refresh_per_second=4) as live:
        while True:
            time.sleep(1)
            try:
                live.update(view(read(), name))
            except (NoCluster, RedisUnavailable) as error:
                live.update(Text(str(error)))


def _print_not_ready(not_ready_reason: str) -> bool:
    """Prints the reason, if there is one; returns whether there is none."""
    if not_ready_reason:
        Console().print(Text(f"requests are not served: {not_ready_reason}"))
    return not not_ready_reason


async def _read(state: RunState) -> Overview:
    membership = Membership(state.redis_url, state.cluster)
    try:
        return await Overview.read(membership)
    finally:
        await membership.close()


def render(overview: Overview, name: str) -> Group:
    """The two header lines and the table of workers."""
    rows = Table(*COLUMNS, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for record in overview.workers:
        rows.add_row(*_row(record))
    desired = ", ".join(f"{role}={count}" for role, count in sorted(overview.desired.items()))
    classes = ", ".join(overview.numerics_classes) or "unknown"
    return Group(
        Text(f"{name} · epoch {overview.epoch} · leader {overview.leader or 'none'}"),
        Text(f"numerics class {classes}" + (f" · desired {desired}" if desired else "")),
        *([Text(f"warning: {overview.warning}")] if overview.warning else []),
        rows,
    )


def _row(record: WorkerRecord) -> tuple[str, ...]:
    stats = record.stats
    state = "draining" if record.draining else "serving" if record.role == "router" or serves(record) else "joining"
    cells = [record.worker_id, state, str(record.loaded) if record.role == "expert" else ""]
    if record.role != "attention":
        return (*cells, "", "", "", "", record.metrics_address)
    used, total = stats.get("kv_pages_used", 0.0), stats.get("kv_pages_total", 0.0)
    exposed, trip = stats.get("exposed_s_per_layer", 0.0), stats.get("round_trip_s_per_layer", 0.0)
    return (
        *cells,
        f"{used / total:.0%}" if total else "",
        f"{stats.get('running', 0):.0f}+{stats.get('waiting', 0):.0f}",
        f"{stats.get('zero_share', 0):.0%}",
        f"{exposed * 1e6:.0f} µs {exposed / trip:.0%}" if trip else "",
        record.metrics_address,
    )
