"""`caracal status`: one table of the workers, with their load and the time they wait for experts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from services.cli.cluster_redis import open_membership
from services.cli.fitting_table import FittingTable
from services.cli.gateway_client import ask_gateway, ask_ready
from services.cli.numerics import render_numerics
from services.cli.run_state import NoCluster, RunState, find
from services.cli.status_rows import COLUMNS, OPTIONAL, rows
from services.membership.overview import Overview
from services.membership.redis import RedisUnavailable

View = Callable[[Overview, str], Group]


def status(watch: bool, gateway: str, view: View) -> bool:
    """Shows the cluster of the gateway at that URL, else the one running here; returns whether it can serve requests.

    Raises NoCluster, RedisUnavailable.
    """
    if gateway:
        served = show(lambda: ask_gateway(gateway), gateway, watch, view)
        return _print_not_ready(ask_ready(gateway)) if served else False
    state = _known_redis()
    return show(lambda: asyncio.run(_read(state)), state.url or "gateway unknown", watch, view)


def read(gateway: str) -> Overview:
    """The cluster of the gateway at that URL, else the one running here. Raises NoCluster, RedisUnavailable."""
    return ask_gateway(gateway) if gateway else asyncio.run(_read(_known_redis()))


def print_json(gateway: str) -> bool:
    """Prints the same as one JSON object, and returns the same.

    Raises NoCluster, RedisUnavailable.
    """
    overview = read(gateway)
    reason = overview.not_ready_reason or (ask_ready(gateway) if gateway else "")
    print(json.dumps(overview.to_dict() | {"serving": not reason, "not_ready_reason": reason}))
    return not reason


def _known_redis() -> RunState:
    state = find()
    if not state.redis_url:
        raise NoCluster(f"no cluster at {state.url} was started here: set CARACAL_REDIS_URL, or give --gateway")
    return state


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
    membership = open_membership(state)
    try:
        overview = await Overview.read(membership)
        if count := membership.bad.count:
            ignored = f"{count} records in Redis are ignored, such as {membership.bad.last}"
            overview = replace(overview, warning=". ".join(filter(None, [overview.warning, ignored])))
        return overview
    finally:
        await membership.close()


def chosen_view(numerics: bool, every: bool) -> View:
    """Returns what to show: the workers, many of one kind as one unless `every`; or what their bits depend on."""
    return render_numerics if numerics else partial(render, fold=not every)


def render(overview: Overview, name: str, fold: bool = True) -> Group:
    """The header lines and the table of workers."""
    table = FittingTable(COLUMNS, rows(overview.workers, fold), OPTIONAL)
    desired = ", ".join(f"{role}={count}" for role, count in sorted(overview.desired.items()))
    classes = ", ".join(overview.numerics_classes) or "unknown"
    return Group(
        Text(f"{name} · epoch {overview.epoch} · leader {overview.leader or 'none'}"),
        Text(f"numerics class {classes}" + (f" · desired {desired}" if desired else "")),
        *([Text(f"warning: {overview.warning}")] if overview.warning else []),
        *(
            Text(f"expert workers of numerics class {name} do not count as ready yet: {why}")
            for name, why in sorted(overview.holds.items())
        ),
        table,
    )
