"""Damages that checksums find at once: bits on the wire between processes, and pages of the cache before they are used
again. What counts is that all are found and that no answer changes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.corruption.damage import KIND, PAGES, WHEN, WORKER
from bench.metrics import samples, summed
from bench.processes import cluster
from bench.stalls.beds import Proxies, until_whole
from bench.stalls.callers import Answer, Callers, Expected, Load
from services.membership.redis import Membership

LOAD = Load(callers=4, prompt=16, answer=200)
ASKED = Load(callers=1, prompt=200, answer=20)
WORKERS = 2
EACH_S = 0.2  # between two flips on a link
DAMAGED = dict.fromkeys(("router", "attention", "expert"), ("caracal_damaged_messages",))
SHARED_DAMAGED = "caracal_prefix_cache_damaged_total"
ANSWER_S = 30.0


async def wire(model: Path, seconds: float, role: str) -> dict[str, Any]:
    """One bit of a message to or from one of a role's two workers flips every EACH_S for so long."""
    proxies = Proxies()
    attention = WORKERS if role == "attention" else 1
    with (
        tempfile.TemporaryDirectory() as logs,
        cluster(
            model,
            Path(logs),
            attention=attention,
            experts=WORKERS,
            behind=proxies,
            before=f"{role}_worker",
            everywhere={"CARACAL_REPLICAS": str(WORKERS)},
        ) as one,
    ):
        membership, expected = Membership(one.redis_url), Expected(LOAD.callers)
        await until_whole(membership, attention, WORKERS)
        before = sum((await summed(membership, DAMAGED)).values())
        async with Callers(one.grpc, LOAD) as callers:
            await callers.more(2 * LOAD.answer)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await asyncio.to_thread(proxies[-1].say, "flip 1")
                await asyncio.sleep(EACH_S)
            flipped = int(await asyncio.to_thread(proxies[-1].say, "flipped"))
            await callers.more(LOAD.answer)
        noticed = sum((await summed(membership, DAMAGED)).values()) - before
        await membership.close()
    changed, lost = expected.changed(callers.answers), callers.lost
    return {
        "what": f"a bit of what goes to or from one of two {role} workers flips {1 / EACH_S:g} times a second",
        "by": "checksums of messages",
        "flipped": flipped,
        "damaged_messages": noticed,
        "answers": sum(map(len, callers.answers)),
        "answers_changed": changed,
        "lost": lost,
        "errors": callers.errors[:5],
        "met": flipped > 0 and not changed and not lost,
    }


async def pages(model: Path, trials: int) -> dict[str, Any]:
    """A bit of every page that may be used again flips; then the same prompt is asked again."""
    with tempfile.TemporaryDirectory() as directory:
        when = Path(directory) / "damage"
        with cluster(
            model,
            Path(directory),
            everywhere={KIND: PAGES, WORKER: "attention-0", WHEN: str(when)},
            attention_module="bench.corruption.damaged_attention",
            CARACAL_PREFIX_CACHE="1",
        ) as one:
            membership = Membership(one.redis_url)
            await until_whole(membership, 1, 1)
            (worker,) = await membership.workers("attention")
            await membership.close()
            expected, found = Expected(1), []
            expected.changed([[await _ask(one.grpc)]])
            for _ in range(trials):
                before = samples(worker.metrics_address)[SHARED_DAMAGED]
                flipped = await _damaged(when)
                changed = expected.changed([[await _ask(one.grpc)]])
                noticed = samples(worker.metrics_address)[SHARED_DAMAGED] - before
                found.append({"flipped": flipped, "noticed": noticed, "answers_changed": changed})
    return {
        "what": "a bit of each page that may be used again flips",
        "by": "checksums of pages",
        "trials": found,
        "met": all(one["flipped"] and one["noticed"] and not one["answers_changed"] for one in found),
    }


async def _ask(target: str) -> Answer:
    """One whole answer."""
    async with Callers(target, ASKED) as callers:
        async with asyncio.timeout(ANSWER_S):
            while len(callers.answers[0]) < 2 and not callers.errors:  # noqa: ASYNC110 - another task's
                await asyncio.sleep(0.01)
        return callers.answers[0][0]


async def _damaged(when: Path) -> int:
    """Has the worker damage its pages; returns how many."""
    done = when.with_suffix(".done")
    await asyncio.to_thread(when.touch)
    async with asyncio.timeout(ANSWER_S):
        while not done.exists() or not done.read_text():  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.01)
    count = int(done.read_text())
    done.unlink()
    return count
