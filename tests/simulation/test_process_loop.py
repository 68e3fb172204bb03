"""Coroutines of a simulated process stop, go on and die with it, and what they raise goes on to whoever runs it."""

from __future__ import annotations

import asyncio

import pytest
from simulation.process_loop import loop_of
from simulation.timeline import Process, Timeline


class Sleeper:
    """A process with a coroutine that notes the time at each second."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.process = Process(self.timeline, "sleeper")
        self.process.start()
        self.loop = loop_of(self.process, lambda: self.timeline.now)
        self.times: list[float] = []
        self.ended = False
        self.loop.do(lambda: asyncio.ensure_future(self._run()))

    async def _run(self) -> None:
        try:
            for _ in range(3):
                await asyncio.sleep(1.0)
                self.times.append(self.timeline.now)
        finally:
            self.ended = True


def test_timers_are_of_virtual_time() -> None:
    sleeper = Sleeper()
    sleeper.timeline.run(2.5)
    assert sleeper.times == [1.0, 2.0]
    sleeper.timeline.run(10.0)
    assert sleeper.times == [1.0, 2.0, 3.0]
    assert sleeper.ended


def test_a_stopped_process_goes_on_where_it_was() -> None:
    sleeper = Sleeper()
    sleeper.timeline.run(1.5)
    sleeper.process.stop()
    sleeper.timeline.run(5.0)
    assert sleeper.times == [1.0]
    sleeper.process.go_on()
    sleeper.timeline.run(10.0)
    assert sleeper.times == [1.0, 5.0, 6.0]


def test_a_killed_process_does_nothing_more() -> None:
    sleeper = Sleeper()
    sleeper.timeline.run(1.5)
    sleeper.loop.close()
    sleeper.process.kill()
    assert sleeper.ended
    sleeper.timeline.run(10.0)
    assert sleeper.times == [1.0]


def test_what_a_coroutine_raises_goes_on() -> None:
    sleeper = Sleeper()

    async def fails() -> None:
        await asyncio.sleep(0.5)
        raise ValueError("a bug")

    sleeper.loop.do(lambda: asyncio.ensure_future(fails()))
    with pytest.raises(ValueError, match="a bug"):
        sleeper.timeline.run(10.0)


def test_limits_of_time_hold() -> None:
    sleeper = Sleeper()
    found: list[float] = []

    async def waits() -> None:
        done, _ = await asyncio.wait([sleeper.loop.create_future()], timeout=0.25)
        assert not done
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sleeper.loop.create_future()
        found.append(sleeper.timeline.now)

    sleeper.loop.do(lambda: asyncio.ensure_future(waits()))
    sleeper.timeline.run(10.0)
    assert found == [0.75]
