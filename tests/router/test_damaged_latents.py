"""A latent that changes in memory while its sequence runs: the answer is computed again at another worker, and differs.

Two attention workers over real sockets; their model reads ids back through pages like latents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from caracal_proto import attention_pb2
from prometheus_client import CollectorRegistry
from support.attention_service import Worker, worker
from support.worker_processes import Store, redis_store

from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.router.requests.admission import Admission, AdmissionLimits
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.callers import Caller
from services.router.requests.generation import Generation, GenerationRequest
from services.router.requests.metrics import RequestMetrics
from services.router.requests.shadow_answers import ShadowAnswers
from services.router.requests.worker_choice import AttentionWorkerView

pytestmark = pytest.mark.processes

PROMPT, TOKENS = list(range(1, 40)), 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


class Answers:
    """One router's answers at two workers, all computed again; the first worker gives them."""

    def __init__(self, workers: list[Worker], membership: Membership) -> None:
        self.workers, self.membership = workers, membership
        views = [
            AttentionWorkerView(
                worker_id=f"attention-{number}",
                address=one.target,
                boot_id=f"b{number}",
                numerics_class="c",
                epoch=1,
                load=float(number),
            )
            for number, one in enumerate(workers)
        ]

        async def listed() -> list[AttentionWorkerView]:
            return views

        self.pool = AttentionWorkerPool(listed, max_model_len=256)
        self.shadow = ShadowAnswers(self.pool, membership.quarantine, 1.0, 0.0)
        self.metrics = RequestMetrics("m", CollectorRegistry())
        self._admission = Admission(lambda: self.pool.capacity, self.metrics.admission, AdmissionLimits())
        self.pool.on_refresh = self._admission.give

    async def result(self, damage: bool) -> str:
        """Gets one answer, in whose pages a value changes after some tokens if there is `damage`."""
        read = self.shadow.begin("r", PROMPT)
        assert read is not None
        sampling = attention_pb2.Sampling(max_tokens=TOKENS, ignore_eos=True, seed=3, temperature=0.5)
        with self._admission.visit(Caller("c"), 0) as visit:
            asked = GenerationRequest(request_id="r", prompt_ids=PROMPT, sampling=sampling, visit=visit)
            with Generation(self.pool, self.metrics, asked) as generation:
                finish_reason = ""
                while not finish_reason:
                    batch = await generation.next_tokens()
                    finish_reason = batch.finish_reason
                    read.batch(batch.tokens, batch.prompt, finish_reason, batch.stop_id)
                    if damage and len(read.ids) > 5:
                        damage = False
                        self.workers[0].engine.cache.tensors[0][:, 3] += 1
                assert generation.boot_id == "b0"
                read.end(generation, "length")
        return await self.shadow._check(self.shadow._waiting.get_nowait())

    async def quarantined(self) -> list[bool]:
        records = [WorkerRecord(worker_id="a", role="attention", address="", boot_id=f"b{n}") for n in range(2)]
        return [bool(one.quarantined) for one in await self.membership.quarantine.mark(records)]


@asynccontextmanager
async def answers(store: Store) -> AsyncIterator[Answers]:
    store.client.flushall()
    membership = Membership(store.url)
    async with worker() as first, worker() as second:
        for one in (first, second):
            one.model.step_s = 0.005  # an answer is not over before its page is damaged
        found = Answers([first, second], membership)
        await found.pool.refresh()
        try:
            yield found
        finally:
            await found.pool.close()
            await membership.close()


def test_damage_is_found_and_two_such_answers_leave_the_worker_out(store: Store, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with answers(store) as router:
            assert await router.result(damage=False) == "same"
            assert await router.result(damage=True) == "wrong"
            assert await router.quarantined() == [False, False]
            assert await router.result(damage=False) == "same"
            assert await router.result(damage=True) == "wrong"
            assert await router.quarantined() == [True, False]

    asyncio.run(asyncio.wait_for(scenario(), 60))
