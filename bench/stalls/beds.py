"""The clusters that faults are injected into: as `caracal up` runs them, or with proxies before a role's workers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from bench.local_clusters import local_cluster, serving, until_all_serve, until_spares_wait
from bench.metrics import samples
from bench.processes import PATH, cluster, proxied
from bench.stalls.faults import BadLink, Fault, Frozen, NotInjected, Proxy, Signalled
from services.local.cluster import LocalCluster
from services.membership.redis import Membership

WORKERS = 2  # of a role that fails, and of expert workers always
WHOLE_S = 120.0
SUSPECTS = "caracal_dispatch_suspects"


class Bed(Protocol):
    """A running cluster in which one kind of fault is measured."""

    async def target(self, round_: int) -> str:
        """The address of the router that clients use."""

    async def fault(self, round_: int) -> Fault:
        """The fault of a round, at a worker that has work now."""

    async def whole(self) -> None:
        """Returns once all serve and none is avoided. Raises NotInjected when that takes too long."""

    async def served_again(self) -> float:
        """After a fault: returns when all serve again, and the seconds since the fault was made."""


async def until_whole(membership: Membership, attention: int, experts: int) -> None:
    """Waits until so many workers serve and no attention worker avoids an expert worker. Raises NotInjected."""
    end = time.monotonic() + WHOLE_S
    while not await _is_whole(membership, attention, experts):
        if time.monotonic() > end:
            raise NotInjected(f"the cluster is not whole again after {WHOLE_S:g} s")
        await asyncio.sleep(0.1)


async def _is_whole(membership: Membership, attention: int, experts: int) -> bool:
    workers = await membership.workers("attention")
    serve = sum(one.serving for one in workers) == len(workers) == attention
    table = await membership.read_table()
    if not serve or table is None or len(table.workers) != experts:
        return False
    records = {one.worker_id: one.boot_id for one in await membership.workers("expert")}
    if records != {worker.worker_id: worker.boot_id for worker in table.workers}:
        return False
    try:
        pages = [await asyncio.to_thread(samples, one.metrics_address) for one in workers]
    except OSError:
        return False
    return all(page.get(SUSPECTS, 0.0) == 0 for page in pages)


async def busiest(membership: Membership) -> str:
    """The attention worker with the most streams. Raises NotInjected where none has one."""
    running = {
        one.worker_id: one.stats.get("running", 0.0) for one in await membership.workers("attention", counts=True)
    }
    if not any(running.values()):
        raise NotInjected("no attention worker has a stream")
    return max(running, key=lambda name: running[name])


class LocalBed:
    """A role's worker, or all of them, in a cluster of `caracal up`, in which who dies is started again."""

    def __init__(self, local: LocalCluster, role: str, what: str, *, all_of_it: bool = False) -> None:
        """`what`: killed, stopped or frozen."""
        self._local, self._role, self._what, self._all = local, role, what, all_of_it
        self._before: dict[str, str] = {}
        self._names: tuple[str, ...] = ()
        self._began = 0.0

    async def target(self, round_: int) -> str:
        return next(iter(await self._local.membership.workers("router"))).address

    async def fault(self, round_: int) -> Fault:
        self._before = await serving(self._local)
        self._names = await self._victims(round_)
        pids = [self._local.children[name].pid for name in self._names]
        self._began = time.monotonic()
        if self._what == "frozen":
            return Frozen(pids[0], self._role)
        return Signalled(signal.SIGKILL if self._what == "killed" else signal.SIGSTOP, pids)

    async def whole(self) -> None:
        await until_whole(self._local.membership, WORKERS, WORKERS)
        if self._what == "killed":
            await until_spares_wait(self._local)

    async def served_again(self) -> float:
        await until_all_serve(self._local, self._before, self._names, poll_s=0.05)
        return time.monotonic() - self._began

    async def _victims(self, round_: int) -> tuple[str, ...]:
        names = [f"{self._role}-{number}" for number in range(WORKERS)]
        if self._all:
            return tuple(names)
        if self._role == "expert":
            return (names[round_ % WORKERS],)
        return (await busiest(self._local.membership),)


class LinkBed:
    """A cluster with proxies before a role's workers; the link to one of them fails."""

    def __init__(self, target: str, membership: Membership, proxies: Sequence[Proxy], role: str, line: str) -> None:
        """`line`: what a proxy is to do."""
        self._target, self._membership = target, membership
        self._proxies, self._role, self._line = proxies, role, line

    async def target(self, round_: int) -> str:
        return self._target

    async def fault(self, round_: int) -> Fault:
        if self._role == "attention":
            number = int((await busiest(self._membership)).rpartition("-")[2])
        else:
            number = round_ % WORKERS
        return BadLink(self._proxies[number], self._line)

    async def whole(self) -> None:
        await until_whole(self._membership, attention_workers(self._role), WORKERS)

    async def served_again(self) -> float:
        raise NotImplementedError("nobody dies here")


def attention_workers(role: str) -> int:
    """How many there are in a cluster whose links of a role fail."""
    return WORKERS if role == "attention" else 1


class Proxies(list[Proxy]):
    """Those of one cluster, in the order of the workers behind them."""

    def __call__(self, stack: ExitStack, directory: Path) -> dict[str, str]:
        ends, variables = proxied()
        child = stack.enter_context(_proxy(ends, directory / "proxy.log"))
        self.append(Proxy(child))
        return variables


@contextmanager
def _proxy(ends: Sequence[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.fault_proxy", *ends]
    with log.open("ab") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env=os.environ | {"PYTHONPATH": PATH},
        )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@asynccontextmanager
async def local_bed(model: Path, role: str, what: str, *, all_of_it: bool, replicas: int) -> AsyncIterator[LocalBed]:
    async with local_cluster(model, spares=1, replicas=replicas, routers=1) as local:
        yield LocalBed(local, role, what, all_of_it=all_of_it)


@asynccontextmanager
async def link_bed(model: Path, role: str, line: str) -> AsyncIterator[LinkBed]:
    """`role`: whose workers have proxies."""
    proxies = Proxies()
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        one = stack.enter_context(
            cluster(
                model,
                Path(logs),
                attention=attention_workers(role),
                experts=WORKERS,
                behind=proxies,
                before=f"{role}_worker",
                everywhere={"CARACAL_REPLICAS": str(WORKERS)},
            )
        )
        membership = Membership(one.redis_url)
        try:
            yield LinkBed(one.grpc, membership, proxies, role, line)
        finally:
            await membership.close()
