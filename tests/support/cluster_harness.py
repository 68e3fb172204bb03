"""A whole cluster of real processes, through the code that `caracal up` runs, and streams through its router."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.tiny_checkpoint import make_checkpoint

from services.cli.scale import serves
from services.local.cluster import LocalCluster
from services.local.settings import LocalSettings
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable

T = TypeVar("T")
WAIT_S = 60.0
LINKS = ("grpc", "nccl")
CALLERS, TOKENS = 8, 200  # streams at once, and their length


@dataclass
class Stream:
    """What came of one request: ids, checksums of the logits, and when each token arrived."""

    ids: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish_reason: str = ""

    @property
    def longest_pause(self) -> float:
        return max((b - a for a, b in zip(self.times, self.times[1:], strict=False)), default=0.0)


class Streams:
    """Eight callers that each send the same request again and again, so that streams run for as long as a test needs.

    Callers differ in prompt, seed and temperature; one caller's answers must all be the same, bit for bit.
    """

    def __init__(self, target: str) -> None:
        self.answers: list[list[Stream]] = [[] for _ in range(CALLERS)]
        self._channel = grpc.insecure_channel(target)
        self._pool = ThreadPoolExecutor(CALLERS)
        self._enough = threading.Event()
        self._runs = [self._pool.submit(self._run, number) for number in range(CALLERS)]

    def _run(self, number: int) -> None:
        sampling = attention_pb2.Sampling(
            temperature=0.8 if number % 2 else 0.0, seed=number + 1, max_tokens=TOKENS, ignore_eos=True
        )
        request = router_pb2.TextRequest(prompt=f"the cat {number} sat on the mat " * (number + 1), sampling=sampling)
        while not self._enough.is_set():
            self.answers[number].append(stream := Stream())
            for event in RouterStub(self._channel).Generate(request, timeout=WAIT_S):
                for token in event.tokens:
                    assert token.index == len(stream.ids)
                    stream.ids.append(token.id)
                    stream.checksums.append(token.logits_checksum)
                    stream.times.append(time.monotonic())
                stream.finish_reason = event.finish_reason or stream.finish_reason

    @property
    def all(self) -> list[Stream]:
        return [stream for answers in self.answers for stream in answers]

    @property
    def tokens(self) -> int:
        return sum(len(stream.ids) for stream in self.all)

    def go_on(self, tokens: int) -> None:
        """Waits until there are so many tokens more."""
        goal = self.tokens + tokens
        until(lambda: self.tokens >= goal or any(run.done() for run in self._runs), "the streams do not come on")

    def finish(self) -> list[list[Stream]]:
        """Lets every caller end its last answer; returns all by caller. Raises what a stream raised."""
        self._enough.set()
        for run in self._runs:
            run.result(WAIT_S)
        self._pool.shutdown()
        self._channel.close()
        return self.answers


def until(holds: Any, message: str, timeout_s: float = WAIT_S) -> float:
    """Waits; returns the seconds it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < timeout_s, message
        time.sleep(0.01)
    return time.monotonic() - started


class ClusterUnderTest:
    """Runs a LocalCluster on a thread of its own, and looks at it through Redis."""

    def __init__(self, settings: LocalSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.local = self.do(self._made(settings))
        self._running: Any = None

    async def _made(self, settings: LocalSettings) -> LocalCluster:
        return LocalCluster(settings)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S * 2)

    def start(self) -> None:
        self.do(self.local.start())
        self.do(self.local.ready(WAIT_S))
        self._running = asyncio.run_coroutine_threadsafe(self.local.run(), self._loop)

    def stop(self) -> None:
        if self._running:
            self._running.cancel()
        self.do(self.local.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def records(self, role: str) -> list[WorkerRecord]:
        return self.do(self._read(role))

    async def _read(self, role: str) -> list[WorkerRecord]:
        return await self.membership.workers(role)

    @property
    def membership(self) -> Membership:
        return self.local.membership

    @property
    def grpc_target(self) -> str:
        return self.records("router")[0].address

    def asked(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Asks Redis; once more when a connection has not survived its restart."""
        try:
            return self.do(question())
        except RedisUnavailable:
            return self.do(question())

    def placed(self) -> dict[str, int]:
        """Experts by worker, as the published table says."""
        table = self.asked(self.membership.read_table)
        counts: dict[str, int] = {}
        for layer in table.layers if table else ():
            for slot in layer.experts:
                for index in slot.worker:
                    name = table.workers[index].worker_id
                    counts[name] = counts.get(name, 0) + 1
        return counts

    def epoch(self) -> int:
        table = self.do(self.membership.read_table())
        return table.epoch if table else 0

    def scale(self, role: str, count: int) -> float:
        """Returns the seconds until the table, or the workers' leases, are as wanted."""
        self.asked(lambda: self.membership.set_desired(role, count))
        names = [f"{role}-{n}" for n in range(count)]
        if role == "expert":
            return until(lambda: sorted(self.placed()) == names, f"never {count} experts: {self.placed()}")
        return until(
            lambda: [r.worker_id for r in self.records(role) if serves(r)] == names, f"never {count} {role} workers"
        )

    def kill(self, name: str) -> None:
        os.kill(self.local.children[name].pid, signal.SIGKILL)

    def streams(self) -> Streams:
        return Streams(self.grpc_target)


def running_cluster(folder: Path, **settings: Any) -> Iterator[ClusterUnderTest]:
    """For fixtures: a ready cluster on a random checkpoint; afterwards asserts that no process is left."""
    model = make_checkpoint(folder / "model", num_layers=3, seed=3)
    cluster = ClusterUnderTest(LocalSettings(model=model, port=0, **settings))
    try:
        cluster.start()
        yield cluster
    finally:
        family = psutil.Process().children(recursive=True)
        mine = {child.pid for child in cluster.local.children.values()}
        cluster.stop()
    left = [process.pid for process in family if process.pid in mine and process.is_running()]
    assert not left, f"left behind: {left}"
    assert not cluster.local.directory.exists()
