"""Pages of a worker that drains go along where that is sooner than computing them again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from support.small_simulation import LINK, deployment, scenario

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.engine.step_cost import Work
from services.attention_worker.migration.estimate import BEGIN_S, LEAST_SEEN_S
from services.attention_worker.migration.limits import AT_ONCE, HANDOVER_S, INSERT_BYTES, UNASKED_S
from services.planner.traffic import Slo
from services.prefixes.page_names import PageNames, root_name
from services.simulator.deployment import Timing
from services.simulator.faults import Fault
from services.simulator.life import Life
from services.simulator.page_fetches import Handover, PageFetches, Source
from services.simulator.simulation import Played, Scenario, play
from services.simulator.traffic import Arrivals, Kind, Lengths, Phase
from services.simulator.virtual_time import VirtualLoop, run

PAGE, PAGES = 16, 100
TOKENS = PAGE * PAGES + 1
KIND = Kind(
    prompt=Lengths(mean=3000, median=2800, most=6000), answer=Lengths(mean=200, median=180, most=400), source="tests"
)


def leaving(**changes: object) -> Scenario:
    arrivals = Arrivals(phases=[Phase(0.0, 5.0)], seconds=20.0, kind=KIND, callers=1000)
    upgrade = Fault(at=8.0, kind="attention upgrade")
    return scenario(seconds=20.0, arrivals=arrivals.generate, faults=[upgrade], deployment={"pages": 4000} | changes)


def stall(played: Played) -> float:
    return played.summary(Slo(ttft_s=5.0, itl_s=0.5)).longest_stall


def test_sequences_of_workers_that_are_replaced_stall_less_with_their_pages() -> None:
    moved, computed = play(leaving(), 1), play(leaving(kv_migration=False), 1)
    assert moved.migrated > 0
    assert moved.pages_moved > 50 * moved.migrated
    assert (computed.migrated, computed.not_migrated, computed.pages_moved) == (0, 0, 0)
    assert stall(moved) < 0.7 * stall(computed)
    for played in (moved, computed):
        assert {g.end for g in played.outcomes.generations} == {"finished"}
        assert {g.ends for g in played.outcomes.generations} == {1}
        assert all(g.tokens == g.answer for g in played.outcomes.generations)
        assert max(g.attempts for g in played.outcomes.generations) > 1


def test_a_seed_gives_the_same() -> None:
    def seen(played: Played) -> list[tuple[object, ...]]:
        return [(g.number, g.first, g.last, g.attempts, g.longest_gap) for g in played.outcomes.generations]

    assert seen(play(leaving(), 2)) == seen(play(leaving(), 2))


class Worker:
    """A worker's side that fetches, with an engine that computes a token in a millisecond."""

    def __init__(self, loop: VirtualLoop, bytes_s: float, step_s: float = 0.0, token_s: float = 1e-3) -> None:
        self.shaped = deployment(link=replace(LINK, bytes_s=bytes_s))
        self.pool = PagePool(1000, PAGE, 16, 16_000)
        scheduler = Scheduler(self.pool, 256, 16)
        for tokens in (1, 64, 256) * 40:
            scheduler.cost.observe(Work.of_chunk(0, tokens, False), token_s * tokens)
        self.fetches = PageFetches(scheduler, self.shaped, lambda: step_s, loop)
        self.handover = Handover(lambda: None)

    async def fetch(self, number: int) -> None:
        names = PageNames(root_name("", PAGE, b"%d" % number), PAGE).of((0,) * TOKENS, TOKENS - 1)
        self.handover.wanted.add(number)
        await self.fetches.fetch(number, names, TOKENS, Source(self.handover, TOKENS))
        assert number not in self.handover.wanted


def taken(bytes_s: float, *, sequences: int = 1, **worker: float) -> tuple[float, Worker]:
    """How long so many sequences' pages take that are asked for at once."""
    found: list[Worker] = []

    async def main(loop: VirtualLoop) -> float:
        found.append(Worker(loop, bytes_s, **worker))
        await asyncio.gather(*(found[0].fetch(number) for number in range(sequences)))
        return loop.time()

    return run(main), found[0]


def test_a_transfer_takes_its_bytes_over_the_link_that_those_at_once_share() -> None:
    size = PAGES * deployment().page_bytes
    took_s, worker = taken(1e9)
    assert took_s == pytest.approx(BEGIN_S + size / 1e9)
    assert (worker.fetches.migrated, worker.fetches.computed, worker.fetches.pages) == (1, 0, PAGES)
    assert worker.pool.named == PAGES
    both_s, both = taken(1e9, sequences=AT_ONCE)
    assert BEGIN_S + size / 1e9 < both_s <= BEGIN_S + AT_ONCE * size / 1e9 + 1e-9
    assert both.fetches.migrated == AT_ONCE
    more_s, _ = taken(1e9, sequences=AT_ONCE + 1)
    assert more_s > both_s + BEGIN_S


def test_pages_are_copied_between_steps() -> None:
    size = PAGES * deployment().page_bytes
    assert taken(1e12, step_s=0.05)[0] == pytest.approx(BEGIN_S + size / INSERT_BYTES * 0.05)


def test_pages_that_are_sooner_computed_are_not_waited_for() -> None:
    took_s, worker = taken(1e9, token_s=1e-6)
    assert took_s == 0.0
    assert (worker.fetches.migrated, worker.fetches.computed, worker.fetches.pages) == (0, 1, 0)
    slow_s, slow = taken(1e6)
    assert slow_s == pytest.approx(LEAST_SEEN_S)
    assert (slow.fetches.migrated, slow.fetches.computed) == (0, 1)
    assert 0 < slow.fetches.pages < PAGES


def test_a_draining_worker_stays_until_its_pages_were_asked_for_and_no_longer_than_it_may() -> None:
    async def stays(loop: VirtualLoop, asked: float, calls: bool = False, dies: float = 1e9) -> float:
        gone, life, began = asyncio.Event(), Life(Timing(), loop), loop.time()
        handover = Handover(gone.set, {1})

        def ask() -> None:
            handover.wanted.discard(1)
            handover.calls += calls

        loop.call_later(asked, ask)
        loop.call_later(dies, lambda: life.die(silent=True))
        waits = loop.create_task(handover.wait(loop, life))
        await gone.wait()
        await waits
        assert handover.ended
        return loop.time() - began

    async def main(loop: VirtualLoop) -> None:
        assert await stays(loop, 0.3) == pytest.approx(0.3, abs=0.06)
        assert await stays(loop, 1e9) == pytest.approx(UNASKED_S, abs=0.06)
        assert await stays(loop, 0.3, True) == pytest.approx(HANDOVER_S, abs=0.06)
        assert await stays(loop, 1e9, False, 0.5) == pytest.approx(0.5, abs=0.06)

    run(main)
