"""A proxy before an expert worker that delays its replies: `python -m bench.delay_proxy LISTEN TARGET DELAY_S`."""

from __future__ import annotations

import sys
import time
from typing import Any

import grpc

from bench import forwarder
from bench.forwarder import REPLY, SESSION


class Delay:
    """A link on which replies to calls are late; what else the worker answers is not."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def holds(self, way: str, method: str) -> bool:
        return way == REPLY and method == SESSION

    def pass_on(self, way: str, arrived_s: float, piece: Any) -> Any:
        if (early := arrived_s + self._delay_s - time.perf_counter()) > 0:
            time.sleep(early)
        return piece


def serve(listen: str, target: str, delay_s: float) -> grpc.Server:
    """Starts the proxy; addresses are host:port. Stop it."""
    return forwarder.serve(listen, target, Delay(delay_s))


def main() -> None:
    serve(sys.argv[1], sys.argv[2], float(sys.argv[3])).wait_for_termination()


if __name__ == "__main__":
    main()
