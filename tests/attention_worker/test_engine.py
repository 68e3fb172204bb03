"""The engine's promises, over a model whose logits betray any mistake in pages, rows, slots or positions."""

import threading
import time
from random import Random

import pytest
import torch
from support.engine_driver import Driver, Heard, limits
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.engine import Engine, EngineStopped
from services.attention_worker.engine.scheduler import CannotFit
from services.attention_worker.engine.sequence import Ending, Request, Sampling
from services.router.dispatch.links import WorkerUnavailable


def prompts(count: int, rng: Random, longest: int = 60) -> list[list[int]]:
    return [[rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def alone(prompt: list[int], sampling: Sampling) -> Heard:
    driver = Driver(FakeModel())
    heard = driver.submit(prompt, sampling)
    driver.finish()
    return heard


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
    for heard, (prompt, sampling) in zip(together, asked, strict=True):
        expected = alone(prompt, sampling)
        assert heard.tokens == expected.tokens
        assert heard.endings == [Ending("length")]
        assert torch.equal(torch.stack(heard.rows), torch.stack(expected.rows))


def test_a_replay_goes_on_where_it_was_cut() -> None:
    rng = Random(3)
    for prompt in prompts(6, rng):
        sampling = Sampling(max_tokens=50, frequency_penalty=0.5, repetition_penalty=1.2, logit_bias={5: 1.0})
        whole = alone(prompt, sampling)
        cut = rng.randrange(50)
        driver = Driver(FakeModel())
        rest = driver.submit(prompt, sampling, emitted=whole.ids[:cut])
        driver.finish()
        assert rest.tokens == whole.tokens[cut:], "indices go on from the tokens already emitted"


@pytest.mark.parametrize(("emitted", "ending"), [([4, 5, 6], Ending("length")), ([9], Ending("stop", stop_id=9))])
def test_a_replay_that_has_everything_only_ends(emitted: list[int], ending: Ending) -> None:
    driver = Driver(FakeModel())
    heard = driver.submit([1, 2], Sampling(max_tokens=3, stop_ids=frozenset({9})), emitted=emitted)
    driver.finish()
    assert (heard.tokens, heard.endings) == ([], [ending])


def test_stop_eos_and_min_tokens() -> None:
    prompt = [3, 1, 4, 1, 5]
    free = alone(prompt, Sampling(max_tokens=30)).ids
    stop = next(token for index, token in enumerate(free) if index > 2 and token not in free[:index])
    at = free.index(stop)

    def run(sampling: Sampling, eos: frozenset[int] = frozenset()) -> Heard:
        driver = Driver(FakeModel(), eos_ids=eos)
        heard = driver.submit(prompt, sampling)
        driver.finish()
        return heard

    by_eos = run(Sampling(max_tokens=30), frozenset({stop}))
    by_id = run(Sampling(max_tokens=30, stop_ids=frozenset({stop}), ignore_eos=True), frozenset({free[0]}))
    assert by_eos.ids == by_id.ids == free[: at + 1]
    assert by_eos.endings == by_id.endings == [Ending("stop", stop_id=stop)]
    assert run(Sampling(max_tokens=30, ignore_eos=True), frozenset({stop})).ids == free
    held = run(Sampling(max_tokens=30, min_tokens=at + 4), frozenset({stop}))
    assert held.ids[:at] == free[:at]
    assert stop not in held.ids[: at + 4]


def test_cancels_at_random_moments_free_the_pages_within_a_step() -> None:
    rng = Random(11)
    driver = Driver(FakeModel(), sizes=limits(num_pages=24, max_running=8, max_len=200))
    live: list[Heard] = []
    for _ in range(400):
        if rng.random() < 0.5:
            live.append(driver.submit(prompts(1, rng, 90)[0], Sampling(max_tokens=rng.randint(1, 80))))
        if live and rng.random() < 0.45:
            gone = live.pop(rng.randrange(len(live)))
            driver.cancel(gone)
            driver.engine.step()
            told = len(gone.tokens)
            assert len(gone.endings) == 1
            driver.engine.step()
            assert len(gone.tokens) == told
        driver.engine.step()
    for heard in live:
        driver.cancel(heard)
        driver.cancel(heard)
    driver.engine.step()
    assert driver.engine.cache.pages.used == 0
    driver.finish()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WorkerUnavailable("expert 3 of layer 0 is held by nobody"), "unavailable"), (ValueError("x"), "failed")],
)
def test_a_failed_step_ends_its_own_sequences_and_the_engine_goes_on(error: Exception, reason: str) -> None:
    model = FakeModel()
    driver = Driver(model, sizes=limits(max_running=2))
    hit = [driver.submit([1, 2, 3], Sampling(max_tokens=20)) for _ in range(2)]
    spared = driver.submit([4, 5], Sampling(max_tokens=20))
    driver.engine.step()
    model.fail_next = error
    driver.engine.step()
    assert [heard.endings for heard in hit] == [[Ending(reason, message=str(error))]] * 2  # type: ignore[arg-type]
    assert driver.engine.cache.pages.used == 0
    driver.finish()
    assert spared.endings == [Ending("length")]
    assert spared.ids == alone([4, 5], Sampling(max_tokens=20)).ids


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


def test_what_can_never_fit_is_refused_at_submit() -> None:
    driver = Driver(FakeModel(), sizes=limits(num_pages=4, max_len=256))
    with pytest.raises(CannotFit, match="70 tokens need 5 pages of 16, the cache has 4"):
        driver.submit([1] * 10, Sampling(max_tokens=60))
    driver.finish()


class Loop:
    """An engine on its own thread."""

    def __init__(self) -> None:
        self.engine = Engine(FakeModel(), None, limits(), frozenset())  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.engine.run)
        self.thread.start()

    def submit(self, heard: Heard, sampling: Sampling) -> None:
        heard.key = self.engine.submit(Request(request_id="r", prompt_ids=(1, 2, 3), sampling=sampling), heard)

    def stop(self) -> None:
        self.engine.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.engine.cache.pages.used == 0


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing happened for 20 s"
        time.sleep(0.002)


def test_the_loop_sleeps_wakes_and_counts() -> None:
    loop = Loop()
    idle = loop.engine.counters.progress
    wait_for(lambda: loop.engine.counters.progress > idle + 1)
    assert loop.engine.counters.steps == 0, "an idle engine computes nothing, and shows that it lives"
    heard = Heard()
    loop.submit(heard, Sampling(max_tokens=25))
    wait_for(lambda: heard.endings)
    assert heard.ids == alone([1, 2, 3], Sampling(max_tokens=25)).ids
    loop.stop()


def test_stopping_gives_everyone_an_ending_and_takes_no_one_in() -> None:
    loop = Loop()
    everyone = [Heard() for _ in range(40)]
    for heard in everyone:
        loop.submit(heard, Sampling(max_tokens=200))
    loop.stop()
    assert {heard.endings[0].reason for heard in everyone} <= {"unavailable", "length"}
    with pytest.raises(EngineStopped):
        loop.submit(Heard(), Sampling(max_tokens=2))
    loop.engine.cancel(everyone[0].key)


def test_eviction_ends_everyone_as_unavailable_and_the_engine_stays() -> None:
    loop = Loop()
    everyone = [Heard() for _ in range(8)]
    for heard in everyone:
        loop.submit(heard, Sampling(max_tokens=250))
    loop.engine.evict("draining")
    wait_for(lambda: all(heard.endings for heard in everyone))
    late = Heard()
    loop.submit(late, Sampling(max_tokens=2))
    wait_for(lambda: late.endings)
    assert late.endings == [Ending("length")]
    assert Ending("unavailable", message="draining") in [heard.endings[0] for heard in everyone]
    loop.stop()
