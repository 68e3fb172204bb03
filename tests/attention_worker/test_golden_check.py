"""Golden tokens, computed again between the steps of an engine that serves: what differs is found, and nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from support.engine_driver import Driver, NoDispatcher, Received, limits
from support.fake_model import FakeModel
from support.flipping_experts import flip
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import NGRAM, PLAIN, make_checkpoint
from support.worker_processes import Store, redis_store
from torch import Tensor

from services.attention_worker.engine.engine import Engine
from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.golden import GoldenTokens, golden_forward
from services.attention_worker.golden_check import GoldenCheck, golden_check_of
from services.attention_worker.loading import Loaded, Opened, open_model
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.model import Model
from services.attention_worker.model.step import Step
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.weights_scrub import WeightsChanged
from services.checkpoint.scrub import memory_checksum
from services.membership.record import WorkerRecord
from services.membership.redis import Membership

pytestmark = pytest.mark.processes

PARTS = ("the embedding", "layer 0 of the attention side", "layer 1 of the attention side", "the head")
PLAIN_BF16, NGRAM_FP8 = (PLAIN, "bf16", False), (NGRAM, "fp8", True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


@pytest.fixture(scope="module", params=[PLAIN_BF16, NGRAM_FP8], ids=["plain", "ngram-kv-fp8-drafts"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    preset, kv_dtype, drafts = request.param
    path = make_checkpoint(tmp_path_factory.mktemp("model"), preset, dtype=torch.bfloat16, drafts=drafts)
    return open_model(AttentionSettings(model=path, kv_pages=4, kv_dtype=kv_dtype if kv_dtype == "fp8" else ""))


@pytest.fixture
def loaded(opened: Opened) -> Loaded[Model]:
    return opened.load()


def check_of(loaded: Loaded[Model]) -> GoldenCheck:
    """One that is due whenever it is called."""
    return GoldenCheck(GoldenTokens(loaded.model, loaded.model.config, 64), loaded.regions, 1, 0)


def answered(loaded: Loaded[Model], dispatcher: DispatcherLike, check: GoldenCheck | None) -> list[Received]:
    """What eight requests got of an engine that calls the check after every step."""
    driver, rng = Driver(loaded.model, dispatcher, limits(drafts=loaded.limits.drafts)), Random(4)
    found = [
        driver.submit([rng.randrange(3, 300) for _ in range(12)], Sampling(max_tokens=40, ignore_eos=True, seed=one))
        for one in range(8)
    ]
    while driver.engine.step():
        if check is not None:
            check()
    driver.finish()
    return found


def test_nothing_is_found_beside_traffic_and_no_answer_changes(opened: Opened, loaded: Loaded[Model]) -> None:
    dispatcher, check = ReferenceDispatcher(opened.checkpoint, torch.bfloat16), check_of(loaded)
    before = golden_forward(loaded.model, opened.config, 64)
    alone, beside = (answered(loaded, dispatcher, one) for one in (None, check))
    for one, other in zip(alone, beside, strict=True):
        assert one.tokens == other.tokens
        assert torch.equal(torch.stack(one.rows), torch.stack(other.rows))
    assert check.rounds > 5
    while check.rounds < 200:
        assert check() == 0
    assert (check.differences, check.reason) == (0, "")
    assert golden_forward(loaded.model, opened.config, 64) == before


@pytest.mark.parametrize("part", range(len(PARTS)), ids=PARTS)
def test_a_bit_that_flips_in_any_part_is_found_and_the_part_is_named(loaded: Loaded[Model], part: int) -> None:
    check = check_of(loaded)
    while check.rounds < 3:
        check()
    region = loaded.regions[0, part]
    tensor = region.tensors[0]
    flip(tensor, tensor.shape[-1] if part == 0 else 5)  # the embedding of token 1, which is the first golden one
    while not check.reason:
        check()
        assert check.rounds < 4
    assert check.reason.endswith(f"with other bits than when it joined, in {PARTS[part]}")
    assert check.differences == 2
    assert check() == float("inf"), "once is enough"


def test_a_fault_that_comes_and_goes_is_found_the_second_time(loaded: Loaded[Model]) -> None:
    check, weights = check_of(loaded), loaded.regions[0, 2].tensors[0]
    for found in (1, 2):
        flip(weights, 5)
        while check.differences < found:
            check()
        flip(weights, 5)
        rounds = check.rounds
        while not check.reason and check.rounds < rounds + 3:
            check()
        assert bool(check.reason) == (found == 2)


def test_it_takes_no_more_than_its_share(loaded: Loaded[Model]) -> None:
    check, longest = GoldenCheck(GoldenTokens(loaded.model, loaded.model.config, 64), {}, 0.1, 0), 0.0
    began, before = time.perf_counter(), 0.0
    while check.rounds < 5:
        wait_s = check()
        assert wait_s > 0
        longest, before = max(longest, check.seconds - before), check.seconds
    assert 0 < check.seconds <= 0.1 * (time.perf_counter() - began) + longest


class FailingOnce:
    """A model that fails in the fourth part that it computes."""

    def __init__(self, model: Model) -> None:
        self._model, self.ngram, self.new_cache = model, model.ngram, model.new_cache
        self.parts = 0

    def in_parts(self, step: Step, caches: list[Tensor], dispatcher: DispatcherLike) -> Iterator[Tensor]:
        for rows in self._model.in_parts(step, caches, dispatcher):
            self.parts += 1
            if self.parts == len(PARTS) + 2:
                raise torch.OutOfMemoryError("no memory")
            yield rows


def test_a_part_that_fails_says_nothing_about_the_worker(loaded: Loaded[Model]) -> None:
    check = GoldenCheck(GoldenTokens(FailingOnce(loaded.model), loaded.model.config, 64), {}, 1, 0)
    assert check() == 0
    assert check() > 50, "it is not tried again at once"
    assert (check.rounds, check.differences, check.reason) == (0, 0, "")


@pytest.mark.parametrize(("share", "tp", "computed"), [(0.002, 1, True), (0.0, 1, False), (0.002, 2, False)])
def test_it_is_off_where_it_cannot_run(loaded: Loaded[Model], share: float, tp: int, computed: bool) -> None:
    check = golden_check_of(AttentionSettings(model=Path("m"), golden_share=share, tp=tp), loaded)
    assert (check() < float("inf")) == computed
    assert bool(check.seconds) == computed


def test_an_idle_engine_calls_it_as_soon_as_it_is_due() -> None:
    calls: list[float] = []

    def between_steps() -> float:
        calls.append(time.monotonic())
        return 0.005

    engine = Engine(FakeModel(), NoDispatcher(), limits(), frozenset(), between_steps=between_steps)
    thread = threading.Thread(target=engine.run)
    thread.start()
    deadline = time.monotonic() + 30
    while len(calls) < 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    engine.stop()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("seen_by_checksums", [True, False], ids=["weights", "arithmetic"])
def test_the_worker_is_left_out_and_ends_if_its_weights_have_changed(
    store: Store, loaded: Loaded[Model], seen_by_checksums: bool
) -> None:
    store.client.flushall()
    record = WorkerRecord(worker_id="attention-0", role="attention", address="127.0.0.1:1", boot_id="b")

    async def run() -> str:
        membership, check = Membership(store.url), check_of(loaded)
        region = loaded.regions[0, 1]
        flip(region.tensors[0], 5)
        if not seen_by_checksums:  # as if products were not what they were
            check._regions = {(0, 1): region._replace(checksum=memory_checksum(region.tensors))}
        running = asyncio.create_task(check.run(membership.quarantine, "b", True))
        while not check.reason:
            check()
        async with asyncio.timeout(20):
            while not (await membership.quarantine.mark([record]))[0].quarantined:  # noqa: ASYNC110 - in Redis
                await asyncio.sleep(0.01)
            if seen_by_checksums:
                with pytest.raises(WeightsChanged, match="weights of layer 0 of the attention side have changed"):
                    await running
        (marked,) = await membership.quarantine.mark([record])
        assert running.done() == seen_by_checksums
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await membership.close()
        return marked.quarantined

    assert "computes the golden tokens with other bits" in asyncio.run(run())
