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
from pathlib import Path

import torch
from caracal_proto import placement_pb2
from expert_fleet import REPO, Worker, load_everything

from services.checkpoint import Checkpoint


class Nursery:
    """`worker()` gives the endpoint and process id of a new worker that holds every expert."""

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

    def worker(self) -> tuple[placement_pb2.Endpoint, int]:
        with self._asking:
            name = f"n{self._born}"
            self._born += 1
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(f"{name}\n")
            said = self._process.stdout.readline().split()
        assert len(said) == 3, "the nursery died"
        assert said[0] == name
        return placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=said[1]), int(said[2])

    def close(self) -> None:
        """Its workers go with it."""
        self._process.kill()
        self._process.communicate()


def serve(checkpoint: Checkpoint, dtype: torch.dtype, name: str, parent: int) -> None:
    worker = Worker(checkpoint, dtype, name)
    load_everything(worker.experts)
    print(name, worker.endpoint.address, os.getpid(), flush=True)
    gone = threading.Event()
    while os.getppid() == parent:
        gone.wait(0.5)


def main() -> None:
    torch.set_num_threads(1)
    checkpoint, dtype = Checkpoint.open(Path(sys.argv[1])), getattr(torch, sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    parent = os.getpid()
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                serve(checkpoint, dtype, line.strip(), parent)
            finally:
                os._exit(0)


if __name__ == "__main__":
    main()
