"""`caracal status`: one table of who is there, what they hold, and what the experts cost."""

from __future__ import annotations

import asyncio

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.local.scale import serves
from services.local.state import NoCluster, RunState, find
from services.membership import Membership, RedisUnavailable, WorkerRecord

# Short on purpose: the table has to fit 80 columns. `run+wait` are sequences, `zero` the share of slots that send
# nothing, `exposed` the wait for experts per layer and its share of the round trip, `metrics` where /metrics is.
COLUMNS = ("worker", "state", "experts", "KV", "run+wait", "zero", "exposed", "metrics")


def status(watch: bool) -> None:
    """Raises NoCluster, RedisUnavailable."""
    state = find()
    if not state.redis_url:
        raise NoCluster(f"no cluster at {state.url} was started here; CARACAL_REDIS_URL names its Redis")
    asyncio.run(_status(state, watch))


async def _status(state: RunState, watch: bool) -> None:
    membership = Membership(state.redis_url, state.cluster)
    try:
        view = await look(membership, state)
        if not watch:
            Console().print(view)
            return
        with Live(view, refresh_per_second=4) as live:
            while True:
                await asyncio.sleep(1)
                try:
                    live.update(await look(membership, state))
                except RedisUnavailable as error:
                    live.update(Text(f"redis is away: {error}"))
    finally:
        await membership.close()


async def look(membership: Membership, state: RunState) -> Group:
    """What there is to see now. Raises RedisUnavailable."""
    records = [record for role in ("router", "attention", "expert") for record in await membership.workers(role)]
    table, leader, wanted = await membership.read_table(), await membership.leader(), await membership.desired()
    rows = Table(*COLUMNS, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for record in records:
        rows.add_row(*_row(record))
    epoch = table.epoch if table else 0
    classes = sorted({record.numerics_class for record in records if record.numerics_class})
    asked = ", ".join(f"{role}={count}" for role, count in sorted(wanted.items())) or "nothing"
    return Group(
        Text(f"{state.url or 'gateway unknown'} · epoch {epoch} · leader {(leader or 'none').partition('/')[0]}"),
        Text(f"numerics class {', '.join(classes) or 'unknown'} · asked for {asked}"),
        rows,
    )


def _row(record: WorkerRecord) -> tuple[str, ...]:
    stats = record.stats
    state = "draining" if record.draining else "serving" if record.role == "router" or serves(record) else "joining"
    cells = [record.worker_id, state, str(record.held) if record.role == "expert" else ""]
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
