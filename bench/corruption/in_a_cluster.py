"""Damages workers of real clusters with the settings that are shipped, under streams, and waits until it is found.

Two workers of each role, native sessions where they are compiled, and every share and limit as it is by default: what
comes is computed again within a fiftieth of a core, and what is too much is dropped and counted.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench.checkpoints import console
from bench.corruption.cases import ENDED, QUARANTINED, REPAIRED, Case
from bench.corruption.damage import KIND, WHEN, WORKER
from bench.metrics import samples, summed
from bench.processes import Cluster, cluster
from bench.stalls.beds import until_whole
from bench.stalls.callers import Callers, Expected, Load
from bench.stalls.faults import state_of
from services.membership.redis import Membership

LOAD = Load(callers=4, prompt=16, answer=200)
WORKERS = 2
LIMIT_S = 300.0  # after which it counts as not found
LOOK_S = 0.1
CALLS = "caracal_expert_calls_total"
COUNTED = {
    "expert": ("caracal_expert_calls",),
    "attention": (
        "caracal_shadow_calls",
        "caracal_shadow_dropped",
        "caracal_shadow_differences",
        "caracal_golden_rounds",
        "caracal_golden_differences",
    ),
    "router": ("caracal_shadow_answers",),
}
Found = dict[str, Any]


async def trial(case: Case, model: Path, more: dict[str, str], limit_s: float) -> Found:
    """One cluster. Returns the seconds until it was found, None if it was not within the limit, and what was counted.

    `more`: further variables of every process. Raises NotInjected when the cluster does not get whole.
    """
    with tempfile.TemporaryDirectory() as directory:
        when, name = Path(directory) / "damage", f"{case.role}-1"
        variables = {"CARACAL_REPLICAS": str(WORKERS), KIND: case.damage, WORKER: name, WHEN: str(when)}
        with cluster(
            model,
            Path(directory),
            attention=WORKERS,
            experts=WORKERS,
            everywhere=variables | dict(case.off) | more,
            attention_module="bench.corruption.damaged_attention",
            expert_module="bench.corruption.damaged_expert",
        ) as one:
            membership = Membership(one.redis_url)
            try:
                await until_whole(membership, WORKERS, WORKERS)
                return await _until_found(case, one, membership, name, when, limit_s)
            finally:
                await membership.close()


async def _until_found(
    case: Case, one: Cluster, membership: Membership, name: str, when: Path, limit_s: float
) -> Found:
    expected = Expected(LOAD.callers)
    pid = one.pids[f"{case.role}_worker"][int(name.rpartition("-")[2])]
    async with Callers(one.grpc, LOAD) as callers:
        await callers.more(2 * LOAD.answer)  # a whole right answer of each, to compare with
        before = await summed(membership, COUNTED)
        await asyncio.to_thread(when.touch)
        began = time.monotonic()
        how = ""
        while not how and time.monotonic() < began + limit_s:
            await asyncio.sleep(LOOK_S)
            how = await _how_found(case, membership, name, pid)
        seconds = time.monotonic() - began
        after = await summed(membership, COUNTED)
        hit = await asyncio.to_thread(when.read_text)
    return {
        "seconds": round(seconds, 1) if how else None,
        "how": how,
        "hit": hit,
        "expert_calls_per_s": round((after[CALLS] - before[CALLS]) / seconds),
        "counted": {each: round(max(0.0, value - before.get(each, 0.0)), 1) for each, value in after.items()},
        "answers": sum(map(len, callers.answers)),
        "answers_changed": expected.changed(callers.answers),
        "lost": callers.lost,
    }


async def _how_found(case: Case, membership: Membership, name: str, pid: int) -> str:
    """What of `case.found` is the case; nothing yet if empty."""
    if ENDED in case.found and state_of(pid) in ("Z", ""):
        return ENDED
    worker = next((each for each in await membership.workers(case.role) if each.worker_id == name), None)
    if worker is None:
        return ""
    if QUARANTINED in case.found and worker.quarantined:
        return QUARANTINED
    if REPAIRED in case.found:
        page = await asyncio.to_thread(samples, worker.metrics_address)
        return REPAIRED if page.get("caracal_expert_repaired_total") else ""
    return ""


def summary(case: Case, trials: Sequence[Found]) -> Found:
    """The mean of those that were found, and whether all were, within the goal in the mean."""
    seconds = [one["seconds"] for one in trials if one["seconds"] is not None]
    mean_s = round(mean(seconds), 1) if seconds else None
    whole = len(seconds) == len(trials)
    return {
        "what": case.what,
        "by": case.by,
        "off": dict(case.off),
        "mean_s": mean_s,
        "goal_s": case.goal_s,
        "met": whole and mean_s is not None and mean_s <= case.goal_s,
        "trials": list(trials),
    }


def measure(name: str, case: Case, model: Path, trials: int, more: dict[str, str], limit_s: float) -> Found:
    """So many trials, each in a cluster of its own."""
    found = []
    for number in range(trials):
        found.append(asyncio.run(trial(case, model, more, limit_s)))
        console.print(f"{name}, trial {number + 1} of {trials}: {found[-1]['seconds']} s, {found[-1]['how']}")
    return summary(case, found)
