"""Expert worker processes by the dozen: one process loads everything once and forks each worker from itself.

Started anew, a worker costs seconds of imports; forked, milliseconds. The parent runs no thread and opens no channel
before it forks, so its children start clean.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
import torch
from caracal_proto import placement_pb2
from support.expert_fleet import REPO, Worker, load_everything
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.expert_worker.batcher import Compute


@dataclass(frozen=True)
class Peer:
    """A worker in a process of its own."""

    endpoint: placement_pb2.Endpoint
    pid: int

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


class Nursery:
    """`worker()` gives a new worker that holds every expert; `slow_s` is added to each of its launches."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        path = os.pathsep.join(str(REPO / p) for p in ("", "kernels", "proto", "tests"))
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(checkpoint), str(dtype).removeprefix("torch.")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self._born = 0
        self._asking = threading.Lock()

    def worker(self, slow_s: float = 0.0) -> Peer:
        with self._asking:
            name = f"n{self._born}"
            self._born += 1
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(f"{name} {slow_s}\n")
            said = self._process.stdout.readline().split()
        assert len(said) == 3, "the nursery died"
        assert said[0] == name
        return Peer(placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=said[1]), int(said[2]))

    def close(self) -> None:
        """Its workers go with it, stopped ones too."""
        for child in psutil.Process(self._process.pid).children():
            child.kill()
        self._process.kill()
        self._process.communicate()


def slowly(slow_s: float) -> Callable[[Compute], Compute]:
    def around(compute: Compute) -> Compute:
        def slow(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
            time.sleep(slow_s)
            return compute(layer, x_RD, row_A, expert_A)

        return slow

    return around


def serve(checkpoint: Checkpoint, dtype: torch.dtype, name: str, slow_s: float, parent: int) -> None:
    worker = Worker(checkpoint, dtype, name, slowly(slow_s))
    load_everything(worker.experts)
    print(name, worker.endpoint.address, os.getpid(), flush=True)
    gone = threading.Event()
    while os.getppid() == parent:
        gone.wait(0.5)


def main() -> None:
    torch.set_num_threads(1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout names the workers
    checkpoint, dtype = Checkpoint.open(Path(sys.argv[1])), getattr(torch, sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    parent = os.getpid()
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                name, slow_s = line.split()
                serve(checkpoint, dtype, name, float(slow_s), parent)
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
