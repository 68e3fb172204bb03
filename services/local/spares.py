"""Processes that have imported what a worker imports, each to take the place of one that has to be started."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from services.process import children
from services.process.children import PIPE, Child
from services.process.spare import order

PAUSE_S = 10.0  # between two starts: modules that cannot be imported would else be tried again all the time

log = structlog.get_logger(__name__)


class Spares:
    """`count` of them, any of which can become any worker. One thread uses this: they die with the one that started
    them."""

    def __init__(
        self,
        count: int,
        modules: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        """`modules`: what they import. `environment`: the variables that all workers have in common, some of which are
        read by what is imported, like the number of OpenMP's threads."""
        self._count, self._modules = count, tuple(modules)
        self._directory, self._environment = directory, environment
        self._pause_s, self._filled = pause_s, float("-inf")
        self._numbers = itertools.count()
        self.waiting: list[Child] = []

    @property
    def ready(self) -> list[Child]:
        """Those that have imported everything."""
        return [one for one in self.waiting if one.alive and one.log.stat().st_size]

    def fill(self) -> None:
        """Starts those that are missing; of those that have died none is kept. It waits for nothing."""
        for dead in [one for one in self.waiting if not one.alive]:
            self.waiting.remove(dead)
            log.warning("a spare process has ended", code=dead.process.returncode, last_line=dead.last_log_line())
            _close(dead)
            dead.log.unlink()
        if len(self.waiting) == self._count or time.monotonic() - self._filled < self._pause_s:
            return
        self._filled = time.monotonic()
        while len(self.waiting) < self._count:
            name = f"spare-{next(self._numbers)}"
            command = [sys.executable, "-P", "-m", "services.process.spare", *self._modules]
            sink = self._directory / f"{name}.out"  # `caracal logs` shows what workers say, and this is none yet
            self.waiting.append(children.start(name, command, sink, self._environment, stdin=PIPE))

    def take(self, name: str, module: str, sink: Path, environment: Mapping[str, str]) -> Child | None:
        """Makes one run the module as the child `name`, with further variables and its log in `sink`; None without one.

        One that still imports is taken too: it is ahead of a process that has not begun.
        """
        while self.waiting:
            spare = self.waiting.pop(0)
            spare.log.unlink()
            sink.touch()
            assert spare.process.stdin is not None
            try:
                with spare.process.stdin as pipe:
                    pipe.write(order(module, environment, sink))
            except BrokenPipeError:
                spare.process.wait()
                continue
            log.info("a spare process takes over", name=name, pid=spare.pid)
            return Child(name, spare.process, sink)
        return None

    def end(self) -> None:
        """Ends those that wait."""
        for one in self.waiting:
            one.signal(signal.SIGKILL)
            one.process.wait()
            _close(one)
        self.waiting.clear()


def _close(spare: Child) -> None:
    if spare.process.stdin is not None:
        spare.process.stdin.close()
