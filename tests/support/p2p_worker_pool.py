"""A pool of expert worker processes: one parent process loads everything once and forks each worker.

A new process costs seconds of imports, a fork milliseconds. The parent runs no thread and opens no channel before it
forks, so the children inherit neither.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
import torch
from caracal_proto import placement_pb2
from support.expert_workers import REPO, Worker, load_everything, slowly

from services.checkpoint.reader import Checkpoint


def thread_states(pid: int) -> list[str]:
    """The states of a process's threads, as proc(5) names them."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return [stat[stat.rindex(")") + 2] for stat in stats]


@dataclass(frozen=True)
class WorkerProcess:
    """An expert worker in a process of its own."""

    endpoint: placement_pb2.Endpoint
    pid: int

    def signal(self, number: signal.Signals) -> None:
        """After SIGSTOP no thread runs on: those on other cores are stopped only after `kill` has returned."""
        os.kill(self.pid, number)
        deadline = time.monotonic() + 10
        while number == signal.SIGSTOP and set(thread_states(self.pid)) != {"T"}:
            assert time.monotonic() < deadline, "the process was not stopped"
            time.sleep(0.001)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


class P2PWorkerPool:
    """Starts expert workers that have loaded every expert. `slow_s` is added to each launch of a worker."""

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
        self._started = 0
        self._lock = threading.Lock()

    def worker(self, slow_s: float = 0.0, direct: bool = False) -> WorkerProcess:
        """`direct`: native sessions reach it without a proxy, by its unix socket."""
        with self._lock:
            name = f"n{self._started}"
            self._started += 1
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(f"{name} {slow_s} {int(direct)}\n")
            reply = self._process.stdout.readline().split()
        assert len(reply) == 3, "the parent process died"
        assert reply[0] == name
        return WorkerProcess(
            placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=reply[1]), int(reply[2])
        )

    def close(self) -> None:
        """Kills the parent and its workers, also those that are stopped by SIGSTOP."""
        for child in psutil.Process(self._process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                child.kill()
        self._process.kill()
        self._process.communicate()


def serve(checkpoint: Checkpoint, dtype: torch.dtype, name: str, slow_s: float, direct: bool, parent: int) -> None:
    worker = Worker(checkpoint, dtype, name, slowly(slow_s) if slow_s else lambda compute: compute)
    worker.service.direct = direct
    load_everything(worker.experts)
    print(name, worker.endpoint.address, os.getpid(), flush=True)
    gone = threading.Event()
    while os.getppid() == parent:
        gone.wait(0.5)


def main() -> None:
    torch.set_num_threads(1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout names the workers
    checkpoint, dtype = Checkpoint.open(Path(sys.argv[1])), getattr(torch, sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    parent = os.getpid()
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                name, slow_s, direct = line.split()
                serve(checkpoint, dtype, name, float(slow_s), direct == "1", parent)
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
