"""A cluster of real processes, started by the code that `caracal up` runs, and streams through its router."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.placements import workers_of
from caracal_proto.router_pb2_grpc import RouterStub
from support.tiny_checkpoint import PLAIN, make_checkpoint

from services.cli.scale import serves
from services.local.cluster import LocalCluster
from services.local.settings import LocalSettings
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable

T = TypeVar("T")
WAIT_S = 60.0
LINKS = ("grpc", "nccl", "native")
CALLERS, TOKENS = 8, 200  # concurrent streams, and the tokens of each


@dataclass
class Stream:
    """The outcome of one request: ids, checksums of the logits, and when each token arrived."""

    ids: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish_reason: str = ""

    @property
    def longest_pause(self) -> float:
        return max((b - a for a, b in zip(self.times, self.times[1:], strict=False)), default=0.0)


def prompt_of(caller: int) -> str:
    return f"the cat {caller} sat on the mat " * (caller + 1)


def sampling_of(caller: int, tokens: int = TOKENS) -> attention_pb2.Sampling:
    """Callers with an odd number sample, the others are greedy."""
    return attention_pb2.Sampling(
        temperature=0.8 if caller % 2 else 0.0, seed=caller + 1, max_tokens=tokens, ignore_eos=True
    )


class Streams:
    """Eight callers that each repeat one request, so that streams run for as long as a test needs.

    Callers differ in prompt, seed and temperature; one caller's answers must all be the same, bit for bit.
    """

    def __init__(self, target: str, tokens: int = TOKENS) -> None:
        self._tokens = tokens
        self.answers: list[list[Stream]] = [[] for _ in range(CALLERS)]
        self._channel = grpc.insecure_channel(target)
        self._pool = ThreadPoolExecutor(CALLERS)
        self._stopping = threading.Event()
        self._runs = [self._pool.submit(self._run, number) for number in range(CALLERS)]

    def _run(self, number: int) -> None:
        request = router_pb2.TextRequest(prompt=prompt_of(number), sampling=sampling_of(number, self._tokens))
        while not self._stopping.is_set():
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

    def wait_for_tokens(self, tokens: int) -> None:
        """Waits until `tokens` more have arrived."""
        goal = self.tokens + tokens
        until(lambda: self.tokens >= goal or any(run.done() for run in self._runs), "the streams do not advance")

    def wait_for_tokens_of_each(self, tokens: int) -> None:
        """Waits until every caller has got `tokens` more."""

        def had() -> list[int]:
            return [sum(len(stream.ids) for stream in answers) for answers in self.answers]

        goals = [one + tokens for one in had()]

        def reached() -> bool:
            return all(one >= goal for one, goal in zip(had(), goals, strict=True))

        until(lambda: reached() or any(run.done() for run in self._runs), "a stream does not advance")

    def finish(self) -> list[list[Stream]]:
        """Waits for every caller's last answer; returns all answers by caller. Raises what a stream raised."""
        self._stopping.set()
        for run in self._runs:
            run.result(WAIT_S)
        self._pool.shutdown()
        self._channel.close()
        return self.answers


def until(condition: Callable[[], object], message: str, timeout_s: float = WAIT_S) -> float:
    """Waits until `condition()` is true; returns the seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, message
        time.sleep(0.01)
    return time.monotonic() - started


class ClusterUnderTest:
    """Runs a LocalCluster on a thread of its own, and reads its state from Redis."""

    def __init__(self, settings: LocalSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.local = self.do(self._create(settings))
        self._running: Any = None

    async def _create(self, settings: LocalSettings) -> LocalCluster:
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
        return await self.membership.workers(role, counts=True)

    @property
    def membership(self) -> Membership:
        return self.local.membership

    @property
    def grpc_target(self) -> str:
        return self.records("router")[0].address

    def query(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Calls Redis; a second time when the connection has not survived a restart of Redis."""
        try:
            return self.do(call())
        except RedisUnavailable:
            return self.do(call())

    def placed(self) -> dict[str, int]:
        """Returns the number of experts of each worker in the published table."""
        table = self.query(self.membership.read_table)
        counts: Counter[str] = Counter()
        if table is not None:
            for layer in table.layers:
                for replicas in workers_of(layer):
                    counts.update(table.workers[index].worker_id for index in replicas)
        return dict(counts)

    def epoch(self) -> int:
        table = self.do(self.membership.read_table())
        return table.epoch if table else 0

    def scale(self, role: str, count: int) -> float:
        """Sets the desired count; returns the seconds until the table, or the workers' leases, match it."""
        self.query(lambda: self.membership.set_desired(role, count))
        names = [f"{role}-{n}" for n in range(count)]
        if role == "expert":
            return until(lambda: sorted(self.placed()) == names, f"experts are not on {count} workers: {self.placed()}")
        return until(
            lambda: [r.worker_id for r in self.records(role) if serves(r)] == names,
            f"no {count} serving {role} workers",
        )

    def kill(self, name: str) -> None:
        os.kill(self.local.children[name].pid, signal.SIGKILL)

    def streams(self) -> Streams:
        return Streams(self.grpc_target)


def answer_of(cluster: ClusterUnderTest, tokens: int = 24) -> list[tuple[int, int]]:
    """The ids and checksums of one answer; empty while none comes."""
    request = router_pb2.TextRequest(prompt=prompt_of(2), sampling=sampling_of(3, tokens))
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        try:
            events = list(RouterStub(channel).Generate(request, timeout=20))
        except grpc.RpcError:
            return []
    return [(token.id, token.logits_checksum) for event in events for token in event.tokens]


def running_cluster(folder: Path, preset: dict[str, Any] = PLAIN, **settings: Any) -> Generator[ClusterUnderTest]:
    """Yields a ready cluster on a random checkpoint, for fixtures; afterwards asserts that no process is left.

    The checkpoint has drafts: with random weights wrong ones, mostly.
    """
    yield from running_on(make_checkpoint(folder / "model", preset, num_layers=3, seed=3, drafts=True), **settings)


def running_on(model: Path, **settings: Any) -> Generator[ClusterUnderTest]:
    """The same on the checkpoint at `model`. Without spares if not asked for, so that every start takes as long."""
    cluster = ClusterUnderTest(LocalSettings(model=model, port=0, **({"spares": 0} | settings)))
    try:
        cluster.start()
        yield cluster
    finally:
        processes = psutil.Process().children(recursive=True)
        children = {child.pid for child in cluster.local.children.values()}
        cluster.stop()
    left = [process.pid for process in processes if process.pid in children and process.is_running()]
    assert not left, f"left behind: {left}"
    assert not cluster.local.directory.exists()
