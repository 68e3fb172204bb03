"""bench.control's block of docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.document_tables import table

GOALS = {
    "idle": 1.0,
    "stall": 5.0,
    "table": 10.0,
    "page": 50.0,
    "ready": 15.0,
    "p50": 10.0,
    "ratio": 5.0,
    "health": 5.0,
}


def control_text(found: Mapping[str, Any]) -> str:
    """What it costs by number of workers, and the goals at the largest one."""
    by_size, machine = found["by_size"], found["machine"]
    head = (
        "expert + attention workers",
        "router idle, % of a core",
        "all join, s",
        "one more joins, s",
        "/health then, at most, ms",
        "one dies, s",
        "/health then, at most, ms",
        "MB sent for a join",
        "Redis, calls and KB per s",
        "router, MB",
    )
    goals = table(("", "measured", "goal"), _goals(found)) + "\n"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['time']}.\n\n{table(head, map(_size, by_size))}\n\n"
        f"![Cost against the number of workers](control.png)\n\n"
        f"At the largest of these sizes, and in whole clusters:\n\n{goals}"
    )


def _size(size: Mapping[str, Any]) -> tuple[str, ...]:
    idle, join, death = size["idle"], size["join"], size["death"]
    return (
        f"{size['experts']} + {size['attention']}",
        f"{100 * idle['cost']['router_cores']:.2f}",
        f"{size['start']['seconds']['served']:.2f}",
        f"{join['seconds']['served']:.2f}",
        f"{join['health_ms']['max']:.1f}",
        f"{death['seconds']['served']:.2f}",
        f"{death['health_ms']['max']:.1f}",
        f"{join['bytes'] / 1e6:.1f}",
        f"{idle['cost']['redis_calls_per_s']:.0f}, {idle['cost']['redis_bytes_per_s'] / 1000:.0f}",
        f"{size['router']['rss_bytes'] / 1e6:.0f}",
    )


def _goals(found: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    last, leaders, engine, serving = found["by_size"][-1], found["leaders"], found["engine"], found["serving"]
    stalls = {
        "a join": last["join"],
        "a drain": last["drain"],
        "a death": last["death"],
        "a rebalance": last["rebalance"],
        "a new leader": leaders["new_leader"],
    }
    pages = {name: last["pages"][name]["ms"] for name in ("/cluster", "/metrics", "caracal status")}
    gap, sessions = serving["inter_token_ms"], engine["more_for_sessions"]
    health = serving["health_ms"]["idle"]["p99"]
    idle = 100 * serving["idle_cores"]["router"]
    noise = ", ".join(f"{each['idle']['health_ms']['max']:.1f}" for each in (last, leaders))
    return [
        (
            f"idle, each of {leaders['routers']} routers, % of a core",
            f"{100 * leaders['idle']['cost']['router_cores']:.2f}",
            _goal(100 * leaders["idle"]["cost"]["router_cores"], "idle"),
        ),
        (
            "longest wait for /health beside " + ", ".join(stalls) + ", ms",
            ", ".join(f"{each['health_ms']['max']:.1f}" for each in stalls.values()),
            _goal(max(each["health_ms"]["max"] for each in stalls.values()), "stall"),
        ),
        ("the same while nothing happens, with one router and with all: what the machine adds, ms", noise, ""),
        (
            f"an engine's step beside a table for {engine['workers']} expert workers: longer by, at most, ms",
            f"{engine['stall_ms']['max']:.1f}",
            _goal(engine["stall_ms"]["max"], "table"),
        ),
        (
            f"{engine['workers']} sessions: more descriptors, threads and MB of the attention worker; of the experts'",
            "; ".join(
                f"{each['fds']}, {each['threads']}, {each['rss_bytes'] / 1e6:.0f}"
                for each in (sessions["attention"], sessions["expert"])
            ),
            "",
        ),
        (
            "/cluster, /metrics; reading and showing `caracal status`, ms",
            ", ".join(f"{ms:.1f}" for ms in pages.values()),
            _goal(max(pages.values()), "page"),
        ),
        (
            f"{serving['workers']} expert workers: from the start to ready, s",
            f"{serving['ready_s']:.1f}",
            _goal(serving["ready_s"], "ready"),
        ),
        ("the same, idle: router, % of a core", f"{idle:.2f}", _goal(idle, "idle")),
        ("the same, idle: /health, 99th percentile, ms", f"{health:.1f}", _goal(health, "health")),
        ("the same: one stream's inter-token time, median, ms", f"{gap['p50']:.1f}", _goal(gap["p50"], "p50")),
        (
            "the same: the longest one of a stream over the median one",
            f"{gap['max'] / gap['p50']:.1f}",
            _goal(gap["max"] / gap["p50"], "ratio"),
        ),
    ]


def _goal(value: float, name: str) -> str:
    return f"≤ {GOALS[name]:g}{'' if value <= GOALS[name] else ', missed'}"


def soak_text(found: Mapping[str, Any]) -> str:
    """What has grown, router by router, and what is left."""
    rows = []
    for name, figures in found["growth"].items():
        cells = [f"{each['first'] / unit:.0f}, {each['last'] / unit:.0f}" for unit, each in _in_units(figures)]
        rows.append((name, *cells))
    head = (
        "router",
        *(f"{name}: first, last quarter" for name in ("MB", "descriptors", "threads", "tasks", "keys in Redis")),
    )
    return (
        f"{found['changes']} joins, deaths and drains in {found['minutes']:g} minutes, {found['epoch']} tables:\n\n"
        + table(head, rows)
        + "\n"
    )


def _in_units(figures: Mapping[str, Any]) -> Sequence[tuple[float, Mapping[str, float]]]:
    return [(1e6 if name == "rss_bytes" else 1.0, each) for name, each in figures.items()]
