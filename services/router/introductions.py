"""Which processes have said themselves who they are. Redis only says where to ask: a lease counts once the process at
its address has answered Describe, or of a router Identify, with the same worker id and boot id, whoever has written it.

Leases of workers that are not there cost a connection now and then and are never chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import grpc
import grpc.aio
from caracal_proto.attention_pb2 import AttentionDescribeRequest
from caracal_proto.attention_pb2_grpc import AttentionStub
from caracal_proto.expert_pb2 import ExpertDescribeRequest
from caracal_proto.expert_pb2_grpc import ExpertStub
from caracal_proto.router_pb2 import IdentifyRequest
from caracal_proto.router_pb2_grpc import RouterStub

from services.membership.bad_records import BadRecords
from services.membership.checks import epoch_violation
from services.membership.record import WorkerRecord
from services.security.channels import PLAIN, Dialer

SOON_S = 0.2  # that a list of workers waits for those that are new
CONNECT_S, DESCRIBE_S = 0.5, 2.0
CONNECTING, DESCRIBING = 256, 32  # at a time
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0
NOTED_AFTER = 4  # times that a lease has been asked after in vain: that of a worker that has died is gone by then
KEPT_S = 30.0  # a worker that has answered stays while its lease is replaced by one that nobody answers for
FORGOTTEN_S = 60.0  # after that without a lease, who has answered is asked again

OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

Run = tuple[str, str, str, str]  # role, worker id, boot id, address


@dataclass(slots=True)
class _Answer:
    """What is known of one run. `epoch`: as it said itself; None = it has not answered as who its lease says."""

    epoch: int | None = None
    asked: int = 0  # since it has answered
    tried: bool = False  # whether it was asked to the end, once at least
    ask_at: float = 0.0
    seen_at: float = 0.0
    answered_at: float = 0.0


class Introductions:
    """One router's introductions; for one event loop."""

    def __init__(self, dialer: Dialer = PLAIN, bad: BadRecords | None = None, again_s: float = math.inf) -> None:
        """`bad` takes the leases that nobody answers for. `again_s`: who has answered is asked again after so long."""
        self._dialer, self._bad, self._again_s = dialer, bad or BadRecords(), again_s
        self._kept_s = min(KEPT_S, 3 * again_s)
        self._boot_ids: dict[str, Run] = {}  # of those who have answered
        self._answers: dict[Run, _Answer] = {}
        self._last: dict[tuple[str, str], tuple[WorkerRecord, float]] = {}  # by role and id: who answered, when seen
        self._asking: dict[Run, asyncio.Task[None]] = {}
        self._connecting, self._describing = asyncio.Semaphore(CONNECTING), asyncio.Semaphore(DESCRIBING)

    @property
    def pending(self) -> bool:
        """Whether anybody has not been asked to the end yet."""
        return any(not self._answers[run].tried for run in self._asking)

    async def admitted(self, role: str, records: Sequence[WorkerRecord], known_epoch: int = 0) -> list[WorkerRecord]:
        """Returns the records of who has answered; waits SOON_S at most for those that are new.

        An epoch too far ahead of `known_epoch` that the worker itself has not named is replaced by what it has said.
        """
        first = self._ask(role, records)
        if first:
            await asyncio.wait(first, timeout=SOON_S)
        now = time.monotonic()
        found = []
        for record in records:
            answer = self._answers.get(_run(record))
            key = role, record.worker_id
            if answer is not None and answer.epoch is not None:
                self._last[key] = record, now
                found.append(self._with_epoch(record, answer, known_epoch))
            elif key in self._last and now - self._last[key][1] < self._kept_s:
                found.append(self._last[key][0])
        self._forget(now)
        return found

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, role: str, records: Sequence[WorkerRecord]) -> list[asyncio.Task[None]]:
        """Asks those that are due; returns the tasks of those that are asked for the first time."""
        now = time.monotonic()
        due = []
        for record in records:
            answer = self._answers.setdefault(_run(record), _Answer())
            answer.seen_at = now
            if now >= answer.ask_at and _run(record) not in self._asking:
                if answer.epoch is not None and now < answer.answered_at + self._again_s:
                    continue
                due.append(record)
        random.shuffle(due)  # nobody decides by its name who waits for whom
        due.sort(key=lambda record: self._answers[_run(record)].asked)
        for record in due[: 2 * CONNECTING - len(self._asking)]:
            self._begin(record)
        asking = [run for record in records if (run := _run(record)) in self._asking]
        return [self._asking[run] for run in asking if not self._answers[run].tried]

    def _begin(self, record: WorkerRecord) -> None:
        run = _run(record)
        task = self._asking[run] = asyncio.create_task(self._introduce(record))
        task.add_done_callback(lambda _: self._asking.pop(run, None))

    def _with_epoch(self, record: WorkerRecord, answer: _Answer, known_epoch: int) -> WorkerRecord:
        said = answer.epoch or 0
        if not epoch_violation(record.epoch, max(said, known_epoch)):
            return record
        if time.monotonic() >= answer.ask_at and _run(record) not in self._asking:
            self._begin(record)
        return replace(record, epoch=said)

    async def _introduce(self, record: WorkerRecord) -> None:
        run = _run(record)
        answer = self._answers[run]
        why, epoch = "it cannot be reached", None
        answer.asked += 1
        try:
            if await self._is_reachable(record.address):
                worker_id, boot_id, said = await self._describe(record)
                if (worker_id, boot_id) != (record.worker_id, record.boot_id):
                    why = f"at its address there is {worker_id[:80]!r}, or another run of it"
                elif self._boot_ids.setdefault(record.boot_id, run)[:2] != run[:2]:
                    why = "its boot id is another worker's"
                else:
                    epoch = said
        except grpc.aio.AioRpcError as error:
            why = f"it does not say who it is: {error.code().name}"
        answer.tried = True
        retry_s = min(LAST_RETRY_S, FIRST_RETRY_S * 3 ** min(answer.asked - 1, 10))
        answer.ask_at = time.monotonic() + (FIRST_RETRY_S if epoch is not None else retry_s)
        if epoch is not None:
            answer.epoch, answer.answered_at, answer.asked = epoch, time.monotonic(), 0
            return
        if math.isfinite(self._again_s):
            answer.epoch = None
        if answer.asked == NOTED_AFTER and answer.epoch is None:
            self._bad.note("worker", f"{run[0]} {run[1]}", f"{run[3]}: {why}")

    async def _is_reachable(self, address: str) -> bool:
        """Whether a connection can be made at all: far cheaper than a channel. Names are left to gRPC."""
        host, _, port = address.rpartition(":")
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return bool(host)
        async with self._connecting:
            try:
                async with asyncio.timeout(CONNECT_S):
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            except (OSError, ValueError, TimeoutError):
                return False
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return True

    async def _describe(self, record: WorkerRecord) -> tuple[str, str, int]:
        """The worker id, the boot id and the epoch of the process at a record's address."""
        # The gRPC port of a router is for clients: they have no certificates, and it has no TLS.
        dialer = PLAIN if record.role == "router" else self._dialer
        async with self._describing, dialer.aio(record.address, record.role, OPTIONS) as channel:
            calls = self._dialer.to_run(channel, record.boot_id)
            if record.role == "router":
                asked = IdentifyRequest(worker_id=record.worker_id, boot_id=record.boot_id)
                same = (await RouterStub(calls).Identify(asked, timeout=DESCRIBE_S)).same
                return (record.worker_id, record.boot_id, record.epoch) if same else ("another process", "", 0)
            if record.role == "attention":
                one = await AttentionStub(calls).Describe(AttentionDescribeRequest(), timeout=DESCRIBE_S)
                return one.worker_id, one.boot_id, one.epoch
            other = await ExpertStub(calls).Describe(ExpertDescribeRequest(), timeout=DESCRIBE_S)
            return other.worker_id, other.boot_id, other.epoch

    def _forget(self, now: float) -> None:
        for run in [run for run, answer in self._answers.items() if now - answer.seen_at > FORGOTTEN_S]:
            if run not in self._asking:
                del self._answers[run]
                if self._boot_ids.get(run[2]) == run:
                    del self._boot_ids[run[2]]
        for key in [key for key, (_, seen_at) in self._last.items() if now - seen_at > self._kept_s]:
            del self._last[key]


def _run(record: WorkerRecord) -> Run:
    return record.role, record.worker_id, record.boot_id, record.address
