"""Who is late is seen by probes, and costs a worker its attempts only where another one answers meanwhile."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from services.router.requests.attempt import Attempt
from services.router.requests.probe_times import (
    AGAINST_OTHERS,
    ALARM_EVERY_S,
    FALSE_COSTS,
    FEWEST,
    FLOOR_S,
    KEPT,
    MOST_ALARMS,
    NEVER,
    Alarms,
    ProbeTimes,
)
from services.router.requests.silent_workers import StallTimeouts
from services.router.requests.stall_detector import StallDetector
from services.router.requests.worker_choice import AttentionWorkerView

NAMES = ("attention-0", "attention-1")
LOOK_S = 0.02
TIMEOUTS = StallTimeouts(probe_after_s=0.05)


class Workers:
    """Two workers, of which each takes so long to answer a probe; for ever while its time is infinite."""

    def __init__(self) -> None:
        self.views = tuple(AttentionWorkerView(worker_id=name, address=name, epoch=1) for name in NAMES)
        self.takes_s = dict.fromkeys(NAMES, 0.0)
        self.received_at = dict.fromkeys(NAMES, -math.inf)
        self.probes: Counter[str] = Counter()
        self.attempts: set[Attempt] = set()
        self.detector = StallDetector(self._probe, lambda worker: self.received_at[worker.worker_id], TIMEOUTS)

    def attempt(self, worker: int) -> Attempt:
        made = Attempt(self.views[worker], 1, lambda: None)
        self.attempts.add(made)
        return made

    async def look(self, until: Callable[[], bool], most_s: float = 10.0, everybody: bool = False) -> bool:
        """Looks, again and again, until something is so; whether it is."""
        end = time.monotonic() + most_s
        while not until():
            if time.monotonic() > end:
                return False
            self.detector.check(self.views, self.attempts, everybody=everybody)
            await asyncio.sleep(LOOK_S)
        return True

    async def known(self) -> None:
        """Has so many answers of each that lateness can be seen."""
        enough = {name: self.probes[name] + 2 * FEWEST for name in NAMES}
        assert await self.look(lambda: all(self.probes[name] >= enough[name] for name in NAMES), everybody=True)

    async def _probe(self, worker: AttentionWorkerView) -> bool:
        self.probes[worker.worker_id] += 1
        begun = time.monotonic()
        while time.monotonic() < begun + self.takes_s[worker.worker_id]:  # noqa: ASYNC110  which changes meanwhile
            await asyncio.sleep(0.005)
        return True


def run(scenario: Callable[[Workers], Coroutine[Any, Any, None]]) -> None:
    async def ran() -> None:
        workers = Workers()
        try:
            await scenario(workers)
        finally:
            workers.detector.close()
            await asyncio.sleep(0)

    asyncio.run(ran())


def test_a_late_answer_costs_a_worker_its_attempts_and_one_in_time_ends_the_suspicion() -> None:
    """The probe has no other end here: nothing but lateness can have been the reason."""

    async def scenario(workers: Workers) -> None:
        mine, others = workers.attempt(0), workers.attempt(1)
        await workers.known()
        workers.takes_s["attention-0"] = math.inf
        assert await workers.look(lambda: mine.abandoned)
        assert workers.detector.suspects == {"attention-0"}
        assert not others.abandoned
        workers.takes_s["attention-0"] = 0.0
        assert await workers.look(lambda: not workers.detector.suspects)

    run(scenario)


def test_one_that_waits_in_a_queue_is_left_alone() -> None:
    """Nothing comes of the worker, which answers probes."""

    async def scenario(workers: Workers) -> None:
        waiting = workers.attempt(0)
        await workers.known()
        probes = workers.probes["attention-0"]
        assert await workers.look(lambda: workers.probes["attention-0"] > probes + 20)
        assert not waiting.abandoned
        assert not workers.detector.suspects

    run(scenario)


def test_nobody_is_late_where_everybody_is() -> None:
    async def scenario(workers: Workers) -> None:
        attempts = [workers.attempt(number) for number in range(2)]
        await workers.known()
        workers.takes_s = dict.fromkeys(NAMES, math.inf)
        assert not await workers.look(lambda: any(one.abandoned for one in attempts), 1.0)
        assert not workers.detector.suspects

    run(scenario)


def test_one_whose_tokens_come_is_not_late() -> None:
    async def scenario(workers: Workers) -> None:
        waiting = workers.attempt(0)
        await workers.known()
        workers.takes_s["attention-0"] = math.inf

        def goes_on() -> bool:
            workers.received_at["attention-0"] = time.monotonic()
            return waiting.abandoned

        assert not await workers.look(goes_on, 0.5, everybody=True)

    run(scenario)


def test_false_alarms_use_up_what_a_worker_may_cost() -> None:
    """It answers each time soon after it was given up: the next attempts stay."""

    async def scenario(workers: Workers) -> None:
        await workers.known()
        alarms = 0
        for _ in range(4):
            mine = workers.attempt(0)
            workers.takes_s["attention-0"] = 1.5 * FLOOR_S
            answered = workers.probes["attention-0"] + 2
            assert await workers.look(lambda: mine.abandoned or workers.probes["attention-0"] > answered)  # noqa: B023
            alarms += mine.abandoned
            workers.attempts.clear()
            workers.takes_s["attention-0"] = 0.0
            assert await workers.look(lambda: not workers.detector.suspects)
            await workers.known()
        assert 1 <= alarms <= MOST_ALARMS / (1 + FALSE_COSTS)

    run(scenario)


def test_limits_follow_what_is_usual() -> None:
    times = ProbeTimes()
    assert times.late_after("a") == NEVER
    for _ in range(FEWEST):
        times.add("a", 0.001)
    assert times.late_after("a") == FLOOR_S
    assert times.late_after("new") == AGAINST_OTHERS * FLOOR_S
    for _ in range(KEPT):
        times.add("slow", 0.15)
    assert times.late_after("slow") == 0.3
    for seconds in (2.0, 2.0, 2.0):  # a few stalls are not how it is
        times.add("slow", seconds)
    assert times.late_after("slow") == 0.3
    for _ in range(KEPT):
        times.add("slow", 2.0)
    assert times.late_after("slow") == AGAINST_OTHERS * FLOOR_S
    times.keep_only({"slow"})
    assert times.late_after("slow") == 4.0, "it is the only one"
    assert times.late_after("a") == AGAINST_OTHERS * 4.0


def test_alarms_come_back_with_time() -> None:
    alarms = Alarms()
    taken = [alarms.take("a", 0.0) for _ in range(int(MOST_ALARMS) + 1)]
    assert taken == [*[True] * int(MOST_ALARMS), False]
    assert alarms.take("b", 0.0)
    assert not alarms.take("a", 0.9 * ALARM_EVERY_S)
    assert alarms.take("a", ALARM_EVERY_S)
    alarms.was_false("a", ALARM_EVERY_S)
    assert not alarms.take("a", 4 * ALARM_EVERY_S)
    assert alarms.take("a", 5 * ALARM_EVERY_S)
