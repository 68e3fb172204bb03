"""Cached pages save work and change nothing: over a model whose logits show any mistake in pages or positions."""

from random import Random

import pytest
import torch
from support.engine_driver import Driver, Received, limits
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.engine.sequence import Sampling
from services.prefixes.page_names import PageNames, root_name

PAGE = 16  # of limits()
FEW = Sampling(max_tokens=4)


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(VOCAB) for _ in range(length)]


def run(driver: Driver, ids: list[int], sampling: Sampling = FEW, *, salt: bytes = b"") -> tuple[Received, int]:
    """What a request received, and how many tokens the model computed for it."""
    before = driver.engine.counters.model_tokens
    received = driver.submit(ids, sampling, salt=salt)
    driver.finish()
    return received, driver.engine.counters.model_tokens - before


def alone(ids: list[int], sampling: Sampling = FEW, emitted: list[int] | None = None, scored: int = 0) -> Received:
    driver = Driver(FakeModel(), sizes=limits(prefix_cache=False))
    received = driver.submit(ids, sampling, emitted, scored=scored)
    driver.finish()
    return received


def assert_same(received: Received, expected: Received) -> None:
    """Equal in all but what was cached."""
    assert [(t.index, t.id, t.logits_checksum, t.logprob) for t in received.tokens] == [
        (t.index, t.id, t.logits_checksum, t.logprob) for t in expected.tokens
    ]
    assert received.endings == expected.endings


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 33, 100])
def test_the_same_prompt_computes_what_follows_its_last_full_page(length: int) -> None:
    driver, ids = Driver(FakeModel()), prompt(length)
    cold, all_tokens = run(driver, ids)
    warm, computed = run(driver, ids)
    cached = (length - 1) // PAGE * PAGE  # the last token is always computed, since its logits are needed
    assert (cold.cached, warm.cached) == (0, cached)
    assert (all_tokens, computed) == (length + 3, length - cached + 3)
    assert_same(warm, cold)
    assert torch.equal(torch.stack(warm.rows), torch.stack(cold.rows))
    scheduler = driver.engine.scheduler
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (2 * length, cached)


def test_an_answer_is_cached_for_the_next_turn() -> None:
    driver, ids = Driver(FakeModel()), prompt(20)
    first, _ = run(driver, ids, Sampling(max_tokens=30))
    turn = [*ids, *first.ids, *prompt(5, seed=1)]
    second, computed = run(driver, turn)
    assert second.cached == 48, "of 49 computed tokens: the last one of an answer is not computed"
    assert computed == len(turn) - 48 + 3
    assert_same(second, alone(turn))


def test_other_salts_and_switched_off() -> None:
    driver, ids = Driver(FakeModel()), prompt(40)
    run(driver, ids, salt=b"a")
    assert run(driver, ids, salt=b"b")[0].cached == 0
    assert run(driver, ids)[0].cached == 0
    assert run(driver, ids, salt=b"a")[0].cached == 32
    off = Driver(FakeModel(), sizes=limits(prefix_cache=False))
    assert [run(off, ids)[0].cached for _ in range(2)] == [0, 0]
    assert off.engine.scheduler.prefix_queries == 0


def test_prompts_that_are_scored_have_all_their_scores() -> None:
    driver, ids = Driver(FakeModel()), prompt(80)
    sampling = Sampling(max_tokens=4, prompt_logprobs=2)
    run(driver, ids)
    received, computed = run(driver, ids, sampling)
    assert (received.cached, computed) == (0, 83)
    assert_same(received, alone(ids, sampling))


@pytest.mark.parametrize("scored", [1, 16, 17, 33, 34, 79])
def test_a_replay_that_is_scored_in_part_uses_what_needs_no_score(scored: int) -> None:
    driver, ids = Driver(FakeModel()), prompt(80)
    sampling = Sampling(max_tokens=4, prompt_logprobs=2)
    run(driver, ids)
    received = driver.submit(ids, sampling, scored=scored)
    driver.finish()
    assert received.cached == (scored - 1) // PAGE * PAGE
    assert [token.index for token in received.scores] == list(range(scored, 80))
    assert_same(received, alone(ids, sampling, scored=scored))


def test_a_replay_uses_what_is_cached_of_prompt_and_answer() -> None:
    driver, ids = Driver(FakeModel()), prompt(20)
    whole, _ = run(driver, ids, Sampling(max_tokens=40))
    before = driver.engine.counters.model_tokens
    rest = driver.submit(ids, Sampling(max_tokens=40), emitted=whole.ids[:30])
    driver.finish()
    assert rest.cached == 20, "of the prompt"
    assert driver.engine.counters.model_tokens - before == 2 + 9, "48 tokens are cached"
    assert [token.id for token in rest.tokens] == whole.ids[30:]


def test_a_preempted_sequence_goes_on_with_what_is_still_cached() -> None:
    sizes = limits(num_pages=9, max_batch_tokens=64, max_running=3, max_len=9 * PAGE)
    driver = Driver(FakeModel(), sizes=sizes)
    asked = [(prompt(40, seed), Sampling(max_tokens=40)) for seed in range(3)]
    received = [driver.submit(*each) for each in asked]
    driver.finish()
    scheduler = driver.engine.scheduler
    assert scheduler.preemptions > 0
    assert scheduler.prefix_hits == 0, "what a sequence has computed itself is no hit"
    for one, each in zip(received, asked, strict=True):
        assert_same(one, alone(*each))
    recomputed = Driver(FakeModel(), sizes=limits(num_pages=9, max_running=3, max_len=144, prefix_cache=False))
    for each in asked:
        recomputed.submit(*each)
    recomputed.finish()
    assert driver.engine.counters.model_tokens < recomputed.engine.counters.model_tokens


def test_a_prompt_uses_pages_that_others_have_computed_after_its_admission() -> None:
    driver = Driver(FakeModel(), sizes=limits(max_batch_tokens=64, max_scores=5))
    ids = prompt(100)
    slow = driver.submit(ids, Sampling(max_tokens=4, prompt_logprobs=0))  # five rows a step, and cannot use pages
    driver.engine.step()
    late = driver.submit(ids, Sampling(max_tokens=4))
    fast = driver.submit(ids, Sampling(max_tokens=4))
    driver.finish()
    assert late.cached < 96, "it was the first to compute"
    assert 64 <= fast.cached < 96, "it has begun in the same step"
    assert driver.engine.counters.model_tokens == 3 * 103 - late.cached - fast.cached
    for one in (late, fast):
        assert_same(one, alone(ids))
    assert_same(slow, alone(ids, Sampling(max_tokens=4, prompt_logprobs=0)))


@pytest.mark.parametrize("from_host", [False, True])
def test_pages_of_logits_that_are_not_finite_are_not_shared(from_host: bool) -> None:
    model, ids = FakeModel(), prompt(40)
    driver = Driver(model, sizes=limits(num_pages=8, max_len=8 * PAGE, host_pages=8))
    if from_host:
        run(driver, ids)
        run(driver, prompt(110, seed=1))
    rows = model.rows.clone()
    poisoned = alone(ids, Sampling(max_tokens=1)).rows[0]
    model.rows[(model.rows == poisoned).all(-1)] = float("nan")
    bad, _ = run(driver, ids)
    assert (driver.engine.cache.pages.host.loads > 0) == from_host
    assert bad.endings[0].reason == "failed"
    model.rows = rows
    good, _ = run(driver, ids)
    assert good.cached == 0
    assert_same(good, alone(ids))


def test_evicted_pages_come_back_from_host_memory() -> None:
    driver = Driver(FakeModel(), sizes=limits(num_pages=8, max_len=8 * PAGE, host_pages=20))
    one, other = prompt(100), prompt(110, seed=1)
    cold, _ = run(driver, one)
    run(driver, other)
    warm, computed = run(driver, one)
    assert (warm.cached, computed) == (96, 7)
    assert driver.engine.cache.pages.host.loads >= 5
    assert_same(warm, cold)
    assert run(driver, other)[0].cached == 96


def test_a_prompt_goes_on_with_what_went_to_host_memory_since_its_last_chunk() -> None:
    driver = Driver(FakeModel(), sizes=limits(num_pages=6, max_batch_tokens=8, max_running=2, host_pages=4))
    ids = prompt(40)
    received = driver.submit(ids, FEW)
    driver.engine.step()  # half of its first page
    engine, (running,) = driver.engine, driver.engine.scheduler.running
    assert running.cached == 8
    assert running.names is not None
    [name] = running.names.of(ids, PAGE)
    latents = torch.tensor(ids[:PAGE]).numpy().tobytes()  # as FakeModel has them
    others = [(bytes([number]) * len(name), latents) for number in range(3)]
    engine.exchange.insert([(name, latents), *others], set())  # these make the first one leave
    engine.step()
    assert engine.cache.pages.host.loads == 1
    driver.finish(max_steps=20)
    assert received.cached == engine.scheduler.prefix_hits == 8, "the half that it had not computed"
    assert_same(received, alone(ids))


def test_copies_that_fail_end_what_runs_and_empty_the_cache() -> None:
    driver = Driver(FakeModel(), sizes=limits(num_pages=8, max_len=8 * PAGE, host_pages=20))
    one, other = prompt(100), prompt(110, seed=1)
    run(driver, one)
    host = driver.engine.cache.host
    good, host._host = host._host, []  # fewer tensors than the cache has
    failed, _ = run(driver, other)
    assert failed.endings[0].reason == "failed"
    host._host = good
    assert driver.engine.cache.pages.named == len(driver.engine.cache.pages.host) == 0
    again, computed = run(driver, one)
    assert (again.cached, computed) == (0, 103)
    assert_same(again, alone(one))


MIXES = {
    "everything fits": limits(num_pages=64, max_running=8),
    "half is evicted": limits(num_pages=14, max_running=3, max_len=14 * PAGE),
    "chunks of seven": limits(num_pages=20, max_batch_tokens=7, max_running=5),
    "a second tier": limits(num_pages=14, max_running=3, max_len=14 * PAGE, host_pages=30),
    "a small second tier": limits(num_pages=14, max_running=3, max_len=14 * PAGE, host_pages=3),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seed", range(4))
def test_requests_with_common_beginnings_in_any_mix(mix: str, seed: int) -> None:
    sizes: EngineLimits = MIXES[mix]
    rng = Random(f"{mix} {seed}")
    driver = Driver(FakeModel(), sizes=sizes, shuffle=rng)
    asked: list[tuple[list[int], Sampling]] = []
    received: list[Received] = []
    for _ in range(30):
        ids = prompt(rng.choice([16, 33, 60, 100]), seed=rng.randrange(3))[: rng.randint(1, 100)]
        ids = [*ids, *prompt(rng.randrange(20), seed=99 + rng.randrange(3))]
        scores = rng.choice([None, None, None, 1])
        sampling = Sampling(max_tokens=rng.randint(1, 30), temperature=0.7, seed=rng.getrandbits(40))
        asked.append((ids, Sampling(max_tokens=sampling.max_tokens, temperature=0.7, seed=sampling.seed)))
        if scores is not None:
            asked[-1] = ids, Sampling(max_tokens=3, prompt_logprobs=scores)
        received.append(driver.submit(*asked[-1]))
        for _ in range(rng.randrange(5)):
            driver.engine.step()
        if rng.random() < 0.2:
            victim = rng.choice(received)
            if not victim.endings:
                driver.cancel(victim)
    driver.finish()
    assert driver.engine.scheduler.prefix_hits > 0
    pages = driver.engine.cache.pages
    assert (pages.evictions > 0) == (mix != "everything fits")
    assert (pages.host.loads > 0) == ("second tier" in mix)
    for one, each in zip(received, asked, strict=True):
        if one.endings[0].reason != "cancelled":
            assert_same(one, alone(*each))


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_page_in_which_a_bit_has_flipped_is_not_used_again(damaged: int) -> None:
    driver, ids = Driver(FakeModel()), prompt(60)
    cold, all_tokens = run(driver, ids)
    pages = driver.engine.cache.pages
    (latents_PIL,) = driver.engine.cache.tensors
    page = pages._page[PageNames(root_name("", PAGE), PAGE).of(ids, 48)[damaged]]
    latents_PIL[page, 5] ^= 1 << 40
    warm, computed = run(driver, ids)
    assert_same(warm, cold)
    assert (warm.cached, computed) == (damaged * PAGE, all_tokens - damaged * PAGE)
    assert pages.damaged == 1
    assert pages.available == pages.total
    assert_same(run(driver, ids)[0], cold)
    assert pages.damaged == 1, "it was computed anew"
