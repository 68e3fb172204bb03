"""An expert worker that takes time for each assignment and computes nothing, so that several fit on few cores.

`python -m bench.placement.timed_worker HIDDEN LAYERS EXPERTS MICROSECONDS` prints its address; each line on its
standard input is answered with what it has counted since the last one: assignments by layer and expert, and busy
seconds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from bench.fanout_worker import FakeWorkers, start


class TimedExperts:
    """The launches of one worker; each assignment takes `us` microseconds."""

    def __init__(self, layers: int, experts: int, us: float) -> None:
        self._us = us
        self._counts = np.zeros((layers, experts), np.int64)
        self._busy_s = 0.0

    def __call__(
        self, layer: int, waited: list[float], rows: int, payload: Any, row: Any, expert: Any, out: memoryview | None
    ) -> None:
        if out is None:
            return
        ids = np.frombuffer(expert, np.int32)
        np.add.at(self._counts[layer], ids, 1)
        takes_s = len(ids) * self._us / 1e6
        self._busy_s += takes_s
        out[:] = bytes(len(out))
        time.sleep(takes_s)

    def take(self) -> dict[str, Any]:
        found = {"counts": self._counts.tolist(), "busy_s": self._busy_s}
        self._counts[:], self._busy_s = 0, 0.0
        return found


def main() -> None:
    hidden, layers, experts = map(int, sys.argv[1:4])
    timed = TimedExperts(layers, experts, float(sys.argv[4]))
    server = start(FakeWorkers(hidden, timed))
    while sys.stdin.readline():
        print(json.dumps(timed.take()), flush=True)
    server.stop(0)


if __name__ == "__main__":
    main()
