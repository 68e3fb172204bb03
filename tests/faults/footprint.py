"""What processes hold, and what of it they have not given back."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
from faults.cluster import FaultyCluster, wait_for
from faults.network import role_of
from prometheus_client.parser import text_string_to_metric_families

METRICS = {  # what of a role's is to be as before
    "router": ("caracal_event_loop_tasks", "caracal_gateway_places_used", "caracal_gateway_queued_sequences"),
    "attention": ("caracal_event_loop_tasks", "caracal:num_requests_running", "caracal:kv_cache_usage_perc"),
    "expert": ("caracal_expert_native_sessions",),
}
# More than before that is no leak: connections that are made again when they are needed, arenas of the allocator.
ROOM = {"descriptors": 16, "threads": 8, "memory, MB": 150, "connections": 8, "caracal_event_loop_tasks": 16}
REST_S = 20.0  # in which sequences that nobody waits for have ended, and connections that end late


@dataclass(frozen=True)
class Footprint:
    """Of one process. `held`: descriptors, threads, connections, sequences, sessions and the like, by name."""

    held: Mapping[str, float]


def leaks(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> list[str]:
    """What processes hold now and did not before, by the node's name. A process that was started again, too, may hold
    no more than the one before did."""
    return [
        f"{node}: {what} {before[node].held[what]:g}, then {now:g}"
        for node, footprint in after.items()
        for what, now in footprint.held.items()
        if now > before[node].held[what] + ROOM.get(what, 0)
    ]


def left_behind(cluster: FaultyCluster, before: Mapping[str, Footprint]) -> list[str]:
    """What is still there some time after the last request: sequences, pages, what processes hold, records in Redis."""
    found = []
    if not wait_for(lambda: not running(cluster), REST_S):
        found.append(f"{running(cluster):g} sequences and pages that nobody waits for")
    wait_for(lambda: not leaks(before, footprints(cluster)), REST_S)
    found += leaks(before, footprints(cluster))
    workers = {key.decode().rpartition(":")[2] for key in cluster.store.client.keys("caracal:worker:*")}
    return found + [f"the record of {name} in Redis" for name in sorted(workers - set(cluster.names))]


def running(cluster: FaultyCluster) -> float:
    """Sequences at the attention workers, and pages that they use; 1 for a worker that says nothing."""
    records = [cluster.record(name) for name in cluster.names if role_of(name) == "attention"]
    return sum(one["stats"]["running"] + one["stats"]["kv_pages_used"] if one else 1.0 for one in records)


def footprints(cluster: FaultyCluster) -> dict[str, Footprint]:
    """What each process holds now."""
    return {name: _footprint(cluster, name) for name in cluster.names}


def _footprint(cluster: FaultyCluster, name: str) -> Footprint:
    process, page, network = psutil.Process(cluster.pid(name)), _metrics(cluster, name), cluster.network
    held: dict[str, float] = {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "memory, MB": process.memory_info().rss >> 20,
        "connections": sum(network.fault(caller, name)["open"] for caller in network.callers(name)),
    }
    return Footprint(held | {metric: page[metric] for metric in METRICS[role_of(name)]})


def _metrics(cluster: FaultyCluster, name: str) -> dict[str, float]:
    """The sums of a node's metrics over their labels."""
    with urllib.request.urlopen(f"http://{cluster.network.door(name)}:8003/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    found: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value
    return dict(found)
