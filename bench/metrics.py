"""What a cluster's attention worker counts, read from its metrics page."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Collection, Mapping

from bench.processes import PROXY_HOST, Cluster
from services.membership.record import WorkerRecord
from services.membership.redis import Membership


def attention_record(target: Cluster) -> WorkerRecord:
    """The lease of the attention worker."""
    return asyncio.run(_attention_record(target.redis_url))


async def _attention_record(redis_url: str) -> WorkerRecord:
    membership = Membership(redis_url)
    try:
        (record,) = await membership.workers("attention", counts=True)
        return record
    finally:
        await membership.close()


def cache_pages(target: Cluster) -> int:
    """The pages of the attention worker's cache, as its lease says."""
    return int(attention_record(target).stats["kv_pages_total"])


def scrape(target: Cluster) -> dict[str, float]:
    """Every sample of the attention worker's page by its full name."""
    return samples(attention_record(target).metrics_address)


def samples(address: str) -> dict[str, float]:
    """Every sample of the page at an address, HOST:PORT, by its full name. Raises OSError.

    A worker behind a proxy advertises its own page at the proxy's host as well, where nobody serves it.
    """
    own = address.replace(PROXY_HOST, "127.0.0.1")
    with urllib.request.urlopen(f"http://{own}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    named = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in named}


async def summed(membership: Membership, names: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Metrics of a role's processes, by sample, summed over those that answer. `names` by role, without `_total`."""
    found: dict[str, float] = {}
    for role, wanted in names.items():
        for worker in await membership.workers(role):
            try:
                page = await asyncio.to_thread(samples, worker.metrics_address)
            except OSError:  # a lease outlives its process
                continue
            for sample, value in page.items():
                if sample.split("{")[0].removesuffix("_total") in wanted:
                    found[sample] = round(found.get(sample, 0.0) + value, 3)
    return found


def per_call(before: dict[str, float], after: dict[str, float]) -> list[tuple[float, float]]:
    """(exposed, round trip) seconds per step between two scrapes, for each layer."""
    steps = after["caracal_engine_steps_total"] - before["caracal_engine_steps_total"]
    layers = sum(1 for name in after if re.match(r"caracal_moe_exposed_seconds_total\{", name))

    def per_step(what: str, layer: int) -> float:
        name = f'caracal_moe_{what}_seconds_total{{layer="{layer}"}}'
        return (after[name] - before[name]) / steps

    return [(per_step("exposed", layer), per_step("round_trip", layer)) for layer in range(layers)]
