"""Answers are computed again at another attention worker; one that gives wrong logits is left out, others never are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from caracal_proto import attention_pb2
from support.cluster_harness import until
from support.fake_attention import Context, FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.worker_processes import Store, redis_store

from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.router.requests.shadow_answers import ShadowAnswers

pytestmark = pytest.mark.processes

LOOK_S = 0.15  # the directory is read every 0.05 s


class Worker(FakeAttention):
    """Answers "hello world", and scores it. A worker that is `wrong` gives other logits for the third token: in its
    answers, and if it is `always` wrong when it is asked again, too."""

    def __init__(self, number: int) -> None:
        super().__init__(answers_with([]), worker_id=f"attention-{number}")
        self.wrong = self.always = False
        self.scored = 0

    def begin(self, ids: list[int]) -> None:
        answer = answers_with(ids, eos=EOS)

        async def script(
            request: attention_pb2.GenerateRequest, context: Context
        ) -> AsyncIterator[attention_pb2.GenerateEvent]:
            if request.sampling.prompt_only:
                self.scored += 1
                yield self._scores(request)
                return
            async for event in answer(request, context):
                for token in event.tokens:
                    token.logits_checksum = self._checksum(token.index, token.id, wrong=self.wrong)
                yield event

        self.script = script

    def _scores(self, request: attention_pb2.GenerateRequest) -> attention_pb2.GenerateEvent:
        event = attention_pb2.GenerateEvent(attempt=request.attempt, finish_reason="length")
        for place in range(max(1, request.scored), len(request.prompt_ids)):
            at, id = place - request.scored, request.prompt_ids[place]
            checksum = self._checksum(at, id, wrong=self.wrong and self.always)
            event.prompt.add(index=place, id=id, logits_checksum=checksum, rank=1)
        return event

    @staticmethod
    def _checksum(at: int, id: int, *, wrong: bool) -> int:
        return 1000 * id + at + 500 * (wrong and at == 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


class Shadowed:
    """A router over workers, all of whose answers are computed again."""

    def __init__(self, harness: Harness, workers: list[Worker], store: Store) -> None:
        store.client.flushall()
        self.harness, self.workers = harness, workers
        self.shadow = harness.do(self._start(store))

    async def _start(self, store: Store) -> ShadowAnswers:
        self.membership = Membership(store.url)
        pool = self.harness.serving.attention_workers
        shadow = self.harness.serving.shadow = ShadowAnswers(pool, self.membership.quarantine, 1.0, LOOK_S)
        self._running = asyncio.create_task(shadow.run())
        return shadow

    def ask(self, worker: int = 0) -> None:
        """One answer of this worker, which the others have not got."""
        for number, one in enumerate(self.harness.directory.workers):
            self.harness.directory.workers[number] = replace(one, load=0.0 if number == worker else 1.0)
        self.harness.do(self.harness.serving.attention_workers.refresh())
        chat = self.harness.client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
        assert chat.choices[0].message.content == "hello world"

    def results(self) -> dict[str, int]:
        (family,) = self.shadow.results.collect()
        samples = [one for one in family.samples if one.name.endswith("_total")]
        return {one.labels["result"]: int(one.value) for one in samples if one.value}

    def wait_for(self, **results: int) -> None:
        until(lambda: self.results() == results, f"not {results}", 20)

    def quarantined(self) -> list[str]:
        records = [
            WorkerRecord(worker_id=one.worker_id, role="attention", address="", boot_id=f"{one.worker_id}-boot")
            for one in self.workers
        ]
        marked = self.harness.do(self.membership.quarantine.mark(records))
        return [one.worker_id for one in marked if one.quarantined]

    def close(self) -> None:
        self.harness.do(self._end())

    async def _end(self) -> None:
        self._running.cancel()
        await self.membership.close()


@pytest.fixture
def three(assets_path: Path, store: Store) -> Iterator[Shadowed]:
    yield from shadowed(assets_path, store, 3)


@pytest.fixture
def two(assets_path: Path, store: Store) -> Iterator[Shadowed]:
    yield from shadowed(assets_path, store, 2)


def shadowed(assets_path: Path, store: Store, count: int) -> Iterator[Shadowed]:
    workers = [Worker(number) for number in range(count)]
    with Harness(assets_path, *workers) as harness:
        for worker in workers:
            worker.begin(harness.ids("hello world"))
        found = Shadowed(harness, workers, store)
        yield found
        found.close()


def test_answers_that_are_the_same_count_against_nobody(two: Shadowed) -> None:
    for number in range(4):
        two.ask(number % 2)
        two.wait_for(same=number + 1)
    assert [one.scored for one in two.workers] == [2, 2]
    assert not two.quarantined()


@pytest.mark.parametrize("always", [False, True], ids=["now and then", "always"])
def test_a_worker_that_gives_wrong_logits_twice_is_left_out(three: Shadowed, always: bool) -> None:
    three.workers[0].wrong, three.workers[0].always = True, always
    three.ask()
    three.wait_for(wrong=1)
    assert not three.quarantined()
    three.ask()
    three.wait_for(wrong=2)
    assert three.quarantined() == ["attention-0"]


def test_of_two_the_one_that_contradicts_itself_is_wrong(two: Shadowed) -> None:
    two.workers[1].wrong = True
    for number in (1, 2):
        two.ask(1)
        two.wait_for(wrong=number)
    assert two.quarantined() == ["attention-1"]


def test_of_two_that_always_differ_nobody_is_left_out(two: Shadowed) -> None:
    two.workers[0].wrong = two.workers[0].always = True
    for number in (1, 2, 3):
        two.ask()
        two.wait_for(undecided=number)
    assert not two.quarantined()


def test_where_several_workers_give_wrong_logits_nobody_is_left_out(three: Shadowed) -> None:
    for number in range(4):
        worker = number % 2
        three.workers[worker].wrong = True
        three.ask(worker)
        three.wait_for(wrong=number + 1)
        three.workers[worker].wrong = False
    assert not three.quarantined()


def test_what_expert_workers_explain_counts_against_nobody(three: Shadowed) -> None:
    three.workers[0].wrong = True
    workers = three.harness.directory.workers
    for number in (1, 2, 3):
        three.ask()
        until(lambda: three.harness.do(three.membership.quarantine.is_suspected()), "nobody is to look closely", 10)
        workers[2] = replace(workers[2], expert_differences=float(number))
        three.wait_for(experts=number)
    assert not three.quarantined()


def test_without_another_worker_nothing_is_compared(two: Shadowed) -> None:
    workers = two.harness.directory.workers
    workers[1] = replace(workers[1], numerics_class="another")
    two.ask()
    two.wait_for(alone=1)
    workers[1] = replace(workers[1], wrong=True, numerics_class=workers[0].numerics_class)
    two.ask()
    two.wait_for(alone=2)


def test_what_a_worker_that_is_left_out_has_open_goes_on_elsewhere(two: Shadowed) -> None:
    """The answer began at the first worker; the client sees a pause."""
    ids = two.harness.ids("hello world")
    two.workers[0].script = answers_with(ids, eos=EOS, pause=0.5)
    workers = two.harness.directory.workers
    workers[1] = replace(workers[1], load=1.0)
    chunks = two.harness.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    text = next(chunks).choices[0].delta.content or ""
    until(lambda: two.workers[0].opened == 1, "no answer has begun", 10)
    workers[0] = replace(workers[0], wrong=True)
    text += "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "hello world"
    assert (two.workers[0].cancelled, two.workers[1].opened) == (1, 1)
