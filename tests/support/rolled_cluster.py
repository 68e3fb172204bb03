"""A router, workers of two roles, and rollouts of both as Kubernetes does them: the last worker of a role is ended, its
successor starts under its name, and the next one is ended when that is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.worker_processes import REPO, Store, redis_store

from services.process.addresses import free_port

READY_S = 60.0
Process = subprocess.Popen[bytes]


class Rolled:
    """Two workers of each role. `variables`: those of all processes, without the prefix CARACAL_."""

    def __init__(self, store: Store, model: Path, logs: Path, **variables: str) -> None:
        self._store, self._logs = store, logs
        self._common = {"MODEL": str(model), "REDIS_URL": store.url, "THREADS": "1", "SPIN_US": "0", **variables}
        self.processes: dict[str, Process] = {}
        self._metrics: dict[str, int] = {}
        self._port = free_port()
        self.target = f"127.0.0.1:{self._port}"

    def start(self, dtype: str) -> None:
        """Starts everything, with workers of this dtype, and waits until it is ready."""
        http = str(free_port())
        self._spawn("router-0", "services.router", GRPC_PORT=str(self._port), PORT=http, MODEL_NAME="tiny")
        for number in range(2):
            for role in ("expert", "attention"):
                self._worker(role, number, dtype)
        for name in [name for name in self.processes if name != "router-0"]:
            self._wait(name)
        until_ok(f"http://127.0.0.1:{http}/ready")

    def roll(self, dtype: str) -> None:
        """Replaces the workers of both roles at the same time by others of this dtype."""
        failed: list[BaseException] = []

        def replace(role: str) -> None:
            try:
                for number in (1, 0):
                    self._end(f"{role}-{number}")
                    self._worker(role, number, dtype)
                    self._wait(f"{role}-{number}")
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=replace, args=(role,)) for role in ("attention", "expert")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    def _worker(self, role: str, number: int, dtype: str) -> None:
        name, self._metrics[f"{role}-{number}"] = f"{role}-{number}", free_port()
        self._spawn(name, f"services.{role}_worker", DTYPE=dtype, METRICS_PORT=str(self._metrics[name]))

    def _spawn(self, name: str, module: str, **variables: str) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CARACAL_")}
        paths = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
        given = {f"CARACAL_{key}": value for key, value in (self._common | {"WORKER_ID": name} | variables).items()}
        with (self._logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module], env=inherited | {"PYTHONPATH": paths} | given, cwd=REPO, stderr=log
            )

    def _end(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGTERM)
        self.processes[name].wait(READY_S)

    def _wait(self, name: str) -> None:
        role = name.partition("-")[0]
        page = "/health/readiness" if role == "expert" else "/ready"
        until_ok(f"http://127.0.0.1:{self._metrics[name]}{page}")


@contextmanager
def rolled_cluster(folder: Path, model: Path, **variables: str) -> Iterator[Rolled]:
    with redis_store(folder) as store:
        cluster = Rolled(store, model, folder, **variables)
        try:
            yield cluster
        finally:
            cluster.stop()


def until_ok(url: str) -> None:
    """Waits until a page answers with 200."""
    deadline, last = time.monotonic() + READY_S, "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            last = error.read().decode()
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    raise AssertionError(f"{url} is not ready: {last}")
