"""A proxy before an expert worker whose link can fail: `python -m bench.fault_proxy LISTEN TARGET`.

It reads what the link is to do from standard input, a line for each change, and answers each with a line: `pass`,
`blackholed` (nothing gets through, either way), `one-way` (calls get through, replies do not), `late SECONDS` (replies
are late by so much); `held` answers how many pieces it has kept back. What is kept back gets through once the link
passes again, as over TCP. `flip COUNT` flips one bit in each of so many pieces of those that come next, either way;
`flipped` answers in how many it has.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any

from bench.forwarder import REPLY, serve

KINDS = ("pass", "blackholed", "one-way", "late")


class FailingLink:
    """What the link does now. Any thread may ask and change it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kind, self._late_s = "pass", 0.0
        self._flips, self._random = 0, random.Random(0)
        self.held = self.flipped = 0

    def become(self, kind: str, late_s: float = 0.0) -> None:
        with self._changed:
            self._kind, self._late_s = kind, late_s
            self._changed.notify_all()

    def flip(self, count: int) -> None:
        with self._changed:
            self._flips += count

    def holds(self, way: str, method: str) -> bool:
        return True

    def pass_on(self, way: str, arrived_s: float, piece: Any) -> Any:
        with self._changed:
            held = False
            while (left_s := self._left_s(way, arrived_s)) > 0:
                self.held += not held
                held = True
                self._changed.wait(left_s)
            if not self._flips or not isinstance(piece, bytes) or not piece:
                return piece
            self._flips -= 1
            self.flipped += 1
            bit = self._random.randrange(8 * len(piece))
        changed = bytearray(piece)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def _left_s(self, way: str, arrived_s: float) -> float:
        if self._kind == "blackholed" or (self._kind == "one-way" and way == REPLY):
            return 60.0  # or until it changes
        if self._kind == "late" and way == REPLY:
            return arrived_s + self._late_s - time.perf_counter()
        return 0.0


def main() -> None:
    link = FailingLink()
    server = serve(sys.argv[1], sys.argv[2], link)
    for line in sys.stdin:
        kind, *numbers = line.split()
        if kind in ("held", "flipped"):
            print(getattr(link, kind), flush=True)
            continue
        if kind == "flip":
            link.flip(int(numbers[0]))
        elif kind in KINDS:
            link.become(kind, float(numbers[0]) if numbers else 0.0)
        else:
            sys.exit(f"{kind} is none of {', '.join(KINDS)}, flip, held, flipped")
        print(kind, flush=True)
    server.stop(None)


if __name__ == "__main__":
    main()
