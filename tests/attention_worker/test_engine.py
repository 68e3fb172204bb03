"""The engine over a model whose logits show any mistake in pages, rows, cache positions or positions."""

import threading
import time
from collections.abc import Callable
from random import Random
from typing import Literal

import pytest
import torch
from support.engine_driver import Driver, NoDispatcher, Received, limits
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.engine import PROMPT_TICK_S, Engine, EngineStopped
from services.attention_worker.engine.scheduler import CannotFit
from services.attention_worker.engine.sequence import Ending, Request, Sampling
from services.router.dispatch.errors import WorkerUnavailable


def prompts(count: int, rng: Random, longest: int = 60) -> list[list[int]]:
    return [[rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def alone(prompt: list[int], sampling: Sampling) -> Received:
    driver = Driver(FakeModel())
    received = driver.submit(prompt, sampling)
    driver.finish()
    return received


@pytest.mark.parametrize("budget", [7, 16, 64])
@pytest.mark.parametrize("pages", [9, 64])
def test_batch_mix_chunks_pages_and_preemption_change_nothing(budget: int, pages: int) -> None:
    rng = Random(budget * pages)
    sizes = limits(num_pages=pages, max_batch_tokens=budget, max_running=min(budget, 6), max_len=pages * 16)
    driver = Driver(FakeModel(), sizes=sizes, shuffle=rng)
    asked = [(prompt, Sampling(max_tokens=rng.randint(1, 60))) for prompt in prompts(12, rng)]
    together = []
    for prompt, sampling in asked:
        together.append(driver.submit(prompt, sampling))
        for _ in range(rng.randrange(6)):
            driver.engine.step()
    driver.finish()
    assert (driver.engine.scheduler.preemptions > 0) == (pages == 9)
    for received, (prompt, sampling) in zip(together, asked, strict=True):
        expected = alone(prompt, sampling)
        assert received.tokens == expected.tokens
        assert received.endings == [Ending("length")]
        assert torch.equal(torch.stack(received.rows), torch.stack(expected.rows))


def test_a_replay_continues_where_it_was_cut() -> None:
    rng = Random(3)
    for prompt in prompts(6, rng):
        sampling = Sampling(max_tokens=50, frequency_penalty=0.5, repetition_penalty=1.2, logit_bias={5: 1.0})
        whole = alone(prompt, sampling)
        cut = rng.randrange(50)
        driver = Driver(FakeModel())
        rest = driver.submit(prompt, sampling, emitted=whole.ids[:cut])
        driver.finish()
        assert rest.tokens == whole.tokens[cut:], "indices continue after the tokens already emitted"


@pytest.mark.parametrize(("emitted", "ending"), [([4, 5, 6], Ending("length")), ([9], Ending("stop", stop_id=9))])
def test_a_replay_of_a_whole_answer_only_ends(emitted: list[int], ending: Ending) -> None:
    driver = Driver(FakeModel())
    received = driver.submit([1, 2], Sampling(max_tokens=3, stop_ids=frozenset({9})), emitted=emitted)
    driver.finish()
    assert (received.tokens, received.endings) == ([], [ending])


def test_stop_eos_and_min_tokens() -> None:
    prompt = [3, 1, 4, 1, 5]
    free = alone(prompt, Sampling(max_tokens=30)).ids
    stop = next(token for index, token in enumerate(free) if index > 2 and token not in free[:index])
    at = free.index(stop)

    def run(sampling: Sampling, eos: frozenset[int] = frozenset()) -> Received:
        driver = Driver(FakeModel(), eos_ids=eos)
        received = driver.submit(prompt, sampling)
        driver.finish()
        return received

    by_eos = run(Sampling(max_tokens=30), frozenset({stop}))
    by_id = run(Sampling(max_tokens=30, stop_ids=frozenset({stop}), ignore_eos=True), frozenset({free[0]}))
    assert by_eos.ids == by_id.ids == free[: at + 1]
    assert by_eos.endings == by_id.endings == [Ending("stop", stop_id=stop)]
    assert run(Sampling(max_tokens=30, ignore_eos=True), frozenset({stop})).ids == free
    longer = run(Sampling(max_tokens=30, min_tokens=at + 4), frozenset({stop}))
    assert longer.ids[:at] == free[:at]
    assert stop not in longer.ids[: at + 4]


def test_cancels_at_random_moments_free_the_pages_within_a_step() -> None:
    rng = Random(11)
    driver = Driver(FakeModel(), sizes=limits(num_pages=24, max_running=8, max_len=200))
    live: list[Received] = []
    for _ in range(400):
        if rng.random() < 0.5:
            live.append(driver.submit(prompts(1, rng, 90)[0], Sampling(max_tokens=rng.randint(1, 80))))
        if live and rng.random() < 0.45:
            gone = live.pop(rng.randrange(len(live)))
            driver.cancel(gone)
            driver.engine.step()
            count = len(gone.tokens)
            assert len(gone.endings) == 1
            driver.engine.step()
            assert len(gone.tokens) == count
        driver.engine.step()
    for received in live:
        driver.cancel(received)
        driver.cancel(received)
    driver.engine.step()
    assert driver.engine.cache.pages.used == 0
    driver.finish()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WorkerUnavailable("expert 3 of layer 0 is loaded on no worker"), "unavailable"), (ValueError("x"), "failed")],
)
def test_a_failed_step_ends_its_own_sequences_alone(error: Exception, reason: Literal["unavailable", "failed"]) -> None:
    model = FakeModel()
    driver = Driver(model, sizes=limits(max_running=2))
    failed = [driver.submit([1, 2, 3], Sampling(max_tokens=20)) for _ in range(2)]
    waiting = driver.submit([4, 5], Sampling(max_tokens=20))
    driver.engine.step()
    model.fail_next = error
    driver.engine.step()
    assert [received.endings for received in failed] == [[Ending(reason, message=str(error))]] * 2
    assert driver.engine.cache.pages.used == 0
    driver.finish()
    assert waiting.endings == [Ending("length")]
    assert waiting.ids == alone([4, 5], Sampling(max_tokens=20)).ids


def test_logits_that_are_not_finite_end_one_sequence_only() -> None:
    model = FakeModel()
    expected = alone([4, 5], Sampling(max_tokens=9)).ids
    poisoned = alone([1, 2, 3], Sampling(max_tokens=1)).rows[0]
    model.rows[(model.rows == poisoned).all(-1)] = float("nan")
    driver = Driver(model)
    bad = driver.submit([1, 2, 3], Sampling(max_tokens=9))
    good = driver.submit([4, 5], Sampling(max_tokens=9))
    driver.finish()
    assert bad.tokens == []
    assert bad.endings[0].reason == "failed"
    assert "not finite" in bad.endings[0].message
    assert good.ids == expected


def test_a_request_that_can_never_fit_is_rejected_at_submit() -> None:
    driver = Driver(FakeModel(), sizes=limits(num_pages=4, max_len=256))
    with pytest.raises(CannotFit, match="70 tokens need 5 pages of 16, the cache has 4"):
        driver.submit([1] * 10, Sampling(max_tokens=60))
    driver.finish()


def test_a_long_prompt_delivers_that_it_goes_on_once_a_second() -> None:
    driver = Driver(FakeModel(), sizes=limits(max_batch_tokens=4, max_running=2, max_len=256))
    first = driver.submit([1] * 100, Sampling(max_tokens=2))
    second = driver.submit([2] * 100, Sampling(max_tokens=2))
    driver.engine.step()
    assert (first.ticks, second.ticks) == (1, 0), "one that waits makes no progress"
    for _ in range(10):
        driver.engine.step()
    assert first.ticks == 1, "not after every chunk"
    (sequence,) = (each for each in driver.engine.scheduler.running if each.key == first.key)
    sequence.ticked_at -= 2 * PROMPT_TICK_S
    driver.engine.step()
    assert first.ticks == 2
    driver.finish()
    assert second.ticks > 0


class EngineThread:
    """An engine on its own thread."""

    def __init__(self) -> None:
        self.engine = Engine(FakeModel(), NoDispatcher(), limits(), frozenset())
        self.thread = threading.Thread(target=self.engine.run)
        self.thread.start()

    def submit(self, received: Received, sampling: Sampling) -> None:
        received.key = self.engine.submit(Request(request_id="r", prompt_ids=(1, 2, 3), sampling=sampling), received)

    def stop(self) -> None:
        self.engine.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.engine.cache.pages.used == 0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for 20 s"
        time.sleep(0.002)


def test_an_idle_engine_counts_progress_and_wakes_for_a_request() -> None:
    loop = EngineThread()
    idle = loop.engine.counters.progress
    wait_for(lambda: loop.engine.counters.progress > idle + 1)
    assert loop.engine.counters.steps == 0, "an idle engine computes nothing, and counts progress"
    received = Received()
    loop.submit(received, Sampling(max_tokens=25))
    wait_for(lambda: received.endings)
    assert received.ids == alone([1, 2, 3], Sampling(max_tokens=25)).ids
    loop.stop()


def test_stop_ends_every_request_and_accepts_no_more() -> None:
    loop = EngineThread()
    requests = [Received() for _ in range(40)]
    for received in requests:
        loop.submit(received, Sampling(max_tokens=200))
    loop.stop()
    assert {received.endings[0].reason for received in requests} <= {"unavailable", "length"}
    with pytest.raises(EngineStopped):
        loop.submit(Received(), Sampling(max_tokens=2))
    loop.engine.cancel(requests[0].key)


def test_evict_ends_every_request_as_unavailable_and_the_engine_runs_on() -> None:
    loop = EngineThread()
    requests = [Received() for _ in range(8)]
    for received in requests:
        loop.submit(received, Sampling(max_tokens=250))
    loop.engine.evict("draining")
    wait_for(lambda: all(received.endings for received in requests))
    late = Received()
    loop.submit(late, Sampling(max_tokens=2))
    wait_for(lambda: late.endings)
    assert late.endings == [Ending("length")]
    assert Ending("unavailable", message="draining") in [received.endings[0] for received in requests]
    loop.stop()
