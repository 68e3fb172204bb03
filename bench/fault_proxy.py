"""A proxy before an expert worker whose link can fail: `python -m bench.fault_proxy LISTEN TARGET`.

It reads what the link is to do from standard input, a line for each change, and answers each with a line: `pass`,
`blackholed` (nothing gets through, either way), `one-way` (calls get through, replies do not), `late SECONDS` (replies
are late by so much); `held` answers how many pieces it has kept back. What is kept back gets through once the link
passes again, as over TCP.
"""

from __future__ import annotations

import sys
import threading
import time

from bench.forwarder import REPLY, serve

KINDS = ("pass", "blackholed", "one-way", "late")


class FailingLink:
    """What the link does now. Any thread may ask and change it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kind, self._late_s = "pass", 0.0
        self.held = 0

    def become(self, kind: str, late_s: float = 0.0) -> None:
        with self._changed:
            self._kind, self._late_s = kind, late_s
            self._changed.notify_all()

    def holds(self, way: str, method: str) -> bool:
        return True

    def pass_on(self, way: str, arrived_s: float) -> None:
        with self._changed:
            held = False
            while (left_s := self._left_s(way, arrived_s)) > 0:
                self.held += not held
                held = True
                self._changed.wait(left_s)

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
        kind, *seconds = line.split()
        if kind == "held":
            print(link.held, flush=True)
            continue
        if kind not in KINDS:
            sys.exit(f"{kind} is none of {', '.join(KINDS)}")
        link.become(kind, float(seconds[0]) if seconds else 0.0)
        print(kind, flush=True)
    server.stop(None)


if __name__ == "__main__":
    main()
