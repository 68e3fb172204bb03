"""Replays requests as a router sends them: with ids, over gRPC, to the attention workers, and elsewhere after failures.

The command is one more router beside those of the cluster: it takes its share of the workers' places.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import grpc.aio
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub
from prometheus_client import CollectorRegistry

from services.cli.verify.compare import Comparison, Difference, ScoreComparison
from services.cli.verify.logs import Entry
from services.membership.redis import Membership
from services.router.introductions import Introductions
from services.router.requests.admission import Admission, AdmissionLimits
from services.router.requests.attention_workers import CHANNEL_OPTIONS, AttentionWorkerPool
from services.router.requests.callers import Caller
from services.router.requests.directory import RouterCount, list_attention_workers
from services.router.requests.errors import RouterError
from services.router.requests.generation import Generation, GenerationRequest
from services.router.requests.metrics import RequestMetrics
from services.router.requests.worker_choice import AttentionWorkerView
from services.security.channels import Dialer
from services.security.identity import ATTENTION

ANY_LENGTH = 2**31 - 1
WAIT_S = 600.0  # for a place of a worker
MOST_OPEN = 1 << 16  # requests: how many are open is decided here, and not by admission
CALLER = Caller("verify")

Rows = dict[int, tuple[int, ...]]


class CannotReplay(Exception):
    """The cluster cannot be used. The message is one line."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How the processes of a cluster are reached, in the role of a router."""

    membership: Membership
    dialer: Dialer

    async def workers(self) -> list[AttentionWorkerView]:
        """The attention workers that take requests now. Raises RedisUnavailable."""
        introductions = Introductions(self.dialer, self.membership.bad)
        try:
            return [one for one in await list_attention_workers(self.membership, introductions) if one.serving]
        finally:
            await introductions.close()


@dataclass(slots=True)
class Outcome:
    """What a replay has found. `differing` and `failed`: in the order in which they were noticed."""

    requests: int = 0
    tokens: int = 0
    attempts: int = 0
    cached: int = 0  # tokens of prompts that were in a worker's prefix cache
    scored: int = 0  # tokens whose log-probability was computed again, as part of a prompt
    differing: list[tuple[Entry, Difference]] = field(default_factory=list)
    failed: list[tuple[Entry, str]] = field(default_factory=list)

    @property
    def first(self) -> tuple[Entry, Difference] | None:
        """The difference that comes first in the log."""
        return min(self.differing, key=lambda one: (one[0].file, one[0].line), default=None)


@asynccontextmanager
async def pool_of(cluster: Cluster, numerics_class: str | None) -> AsyncIterator[AttentionWorkerPool]:
    """The workers of one class, or all of them, followed while they come and go."""
    introductions = Introductions(cluster.dialer, cluster.membership.bad)

    async def listed() -> list[AttentionWorkerView]:
        found = await list_attention_workers(cluster.membership, introductions)
        return [one for one in found if numerics_class in (None, one.numerics_class)]

    routers = RouterCount(cluster.membership, introductions, "")  # this one beside the cluster's
    pool = AttentionWorkerPool(listed, max_model_len=ANY_LENGTH, count_routers=routers.read, dialer=cluster.dialer)
    await pool.refresh()
    following = asyncio.create_task(pool.run())
    try:
        yield pool
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await pool.close()
        await introductions.close()


class Replayer:
    """Replays requests at the workers of a pool. `score`: answers that have log-probabilities are scored as prompts."""

    def __init__(self, pool: AttentionWorkerPool, outcome: Outcome, *, score: bool = False) -> None:
        self._pool, self._outcome, self._scores = pool, outcome, score
        self._metrics = RequestMetrics("verify", CollectorRegistry())
        limits = AdmissionLimits(queue_timeout_s=WAIT_S, max_sequences=MOST_OPEN)
        self._admission = Admission(lambda: pool.capacity, self._metrics.admission, limits)
        pool.on_refresh = self._admission.give

    async def run(self, entries: Iterator[Entry], concurrency: int, done: Callable[[], None]) -> None:
        """Replays the entries, so many at a time; adds what is found to the outcome, and calls `done` after each."""

        async def work() -> None:
            for entry in entries:  # one iterator, which all share: each takes the next
                try:
                    await self._one(entry)
                except RouterError as error:
                    self._outcome.failed.append((entry, error.message))
                self._outcome.requests += 1
                done()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(work())

    async def _one(self, entry: Entry) -> None:
        outcome, comparison = self._outcome, Comparison(entry.recorded)
        try:
            attempts = await self._compare(entry, comparison)
        finally:
            outcome.tokens += comparison.tokens
        outcome.attempts += attempts
        difference = comparison.difference
        if difference is None and self._scores and entry.recorded.logprobs:
            scores = ScoreComparison(entry.recorded)
            await self._score(entry, scores)
            outcome.scored += scores.tokens
            difference = scores.difference
        if difference is not None:
            outcome.differing.append((entry, difference))

    async def _compare(self, entry: Entry, comparison: Comparison) -> int:
        """Replays one request as far as there is something to compare; returns the number of attempts."""
        recorded = entry.recorded
        sampling = attention_pb2.Sampling()
        sampling.CopyFrom(recorded.sampling)
        if not comparison.whole:
            sampling.max_tokens = len(recorded.ids)
        with self._generation(entry, recorded.prompt_ids, sampling) as generation:
            finish_reason = ""
            while not finish_reason and not comparison.done:
                batch = await generation.next_tokens()
                finish_reason = batch.finish_reason
                comparison.take(batch.tokens, batch.prompt, finish_reason, batch.stop_id)
            self._outcome.cached += generation.cached_tokens
            return generation.attempts

    async def _score(self, entry: Entry, comparison: ScoreComparison) -> None:
        """Has prompt and answer computed as one prompt, as a trainer's forward pass does."""
        ids = [*entry.recorded.prompt_ids, *entry.recorded.ids]
        sampling = attention_pb2.Sampling(prompt_logprobs=0, prompt_only=True, max_tokens=1)
        with self._generation(entry, ids, sampling) as generation:
            finish_reason = ""
            while not finish_reason:
                batch = await generation.next_tokens()
                finish_reason = batch.finish_reason
                comparison.take(batch.prompt)

    @contextmanager
    def _generation(self, entry: Entry, ids: Sequence[int], sampling: attention_pb2.Sampling) -> Iterator[Generation]:
        with self._admission.visit(CALLER, 0) as visit:
            request = GenerationRequest(
                request_id=f"verify-{entry.line}", prompt_ids=ids, sampling=sampling, visit=visit
            )
            with Generation(self._pool, self._metrics, request) as generation:
                yield generation


async def layer_rows(cluster: Cluster, worker: AttentionWorkerView, ids: Sequence[int]) -> tuple[Rows, int]:
    """Computes the ids anew on one worker; returns the checksums of each position's rows, and that of the logits which
    follow. Raises CannotReplay."""
    channel = cluster.dialer.aio(worker.address, ATTENTION, CHANNEL_OPTIONS)
    request = attention_pb2.GenerateRequest(
        request_id="verify-layers",
        attempt=1,
        prompt_ids=ids,
        sampling=attention_pb2.Sampling(max_tokens=1, ignore_eos=True),
        layer_checksums=True,
    )
    rows: Rows = {}
    logits = 0
    try:
        async for event in AttentionStub(cluster.dialer.to_run(channel, worker.boot_id)).Generate(request):
            for layers in event.layers:
                rows[layers.position] = tuple(layers.checksum)
            for token in event.tokens:
                logits = token.logits_checksum
    except grpc.aio.AioRpcError as error:
        raise CannotReplay(f"{worker.worker_id} cannot compute layers: {error.details()}") from None
    finally:
        await channel.close()
    return rows, logits
