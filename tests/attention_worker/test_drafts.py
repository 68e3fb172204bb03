"""Drafts change no token, checksum, log-probability or ending: requests of many kinds, with and without, over a model
whose logits are a hash of all ids that its cache has."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engine_driver import Driver, Received, limits
from support.fake_model import VOCAB, FakeModel
from torch import Tensor

from services.attention_worker.engine.draft_policy import DraftPolicy
from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.engine.sequence import FIRST_ACCEPTANCE, Sampling, Sequence
from services.attention_worker.engine.step_cost import StepCost, Work
from services.attention_worker.engine.token_rules import NothingAllowed, Reasoning, TokenRules
from services.attention_worker.model.step import Step


class Digits:
    """A grammar: ids of one class after another, for so many tokens; then only the end."""

    end_id = 1

    def __init__(self, length: int) -> None:
        self._ids, self._length, self._taken = np.arange(VOCAB) % 5, length, 0

    def begin(self) -> None:
        pass

    def ceiling(self) -> NDArray[np.float32]:
        allowed = self._ids == self._taken % 5
        if self._taken >= self._length:
            allowed = np.arange(VOCAB) == self.end_id
        return np.where(allowed, np.inf, -np.inf).astype(np.float32)

    def accept(self, token: int) -> None:
        if self._taken < self._length and token % 5 != self._taken % 5:
            raise NothingAllowed("not of its class")
        self._taken += 1


def random_sampling(rng: Random) -> Sampling:
    def sometimes(value: float, neutral: float = 0.0) -> float:
        return value if rng.random() < 0.4 else neutral

    return Sampling(
        temperature=rng.choice([0.0, 0.7, 1.5]),
        top_k=rng.choice([0, 0, 5, 40]),
        top_p=sometimes(rng.uniform(0.3, 1.0), 1.0),
        min_p=sometimes(rng.uniform(0.0, 0.2)),
        seed=rng.getrandbits(63) - 2**62,
        presence_penalty=sometimes(rng.uniform(-2, 2)),
        frequency_penalty=sometimes(rng.uniform(-2, 2)),
        repetition_penalty=sometimes(rng.uniform(0.5, 2.0), 1.0),
        logit_bias={rng.randrange(VOCAB): rng.uniform(-5, 5)} if rng.random() < 0.3 else {},
        stop_ids=frozenset(rng.sample(range(VOCAB), rng.choice([0, 0, 1, 4]))),
        ignore_eos=rng.random() < 0.5,
        min_tokens=rng.choice([0, 0, 0, 3, 20]),
        max_tokens=rng.randint(1, 60),
        logprobs=rng.random() < 0.3,
        top_logprobs=rng.choice([0, 3]),
        prompt_logprobs=rng.choice([None, None, None, 0, 2]),
    )


Rules = dict[str, object]


def random_rules(rng: Random) -> Rules | None:
    kind = rng.randrange(8)
    if kind == 0:
        return {"grammar": rng.randint(2, 30)}
    if kind == 1:
        return {"allowed_ids": frozenset(rng.sample(range(VOCAB), 20))}
    if kind == 2:
        return {"banned": [(3,), (4, 5)], "reasoning": Reasoning(begin_id=6, end_id=7, open=True, budget=5)}
    if kind == 3:
        return {"grammar": 12, "reasoning": Reasoning(begin_id=6, end_id=7, open=True, budget=9)}
    return None


def made(rules: Rules | None, emitted: list[int]) -> TokenRules | None:
    if rules is None:
        return None
    given = dict(rules)
    if "grammar" in given:
        given["grammar"] = Digits(given["grammar"])  # type: ignore[arg-type]
    found = TokenRules(**given)  # type: ignore[arg-type]
    for token in emitted:
        found.accept(token)
    return found


Asked = tuple[list[int], Sampling, Rules | None]


def requests(rng: Random, count: int) -> list[Asked]:
    found = []
    beginning = [rng.randrange(VOCAB) for _ in range(50)]
    for _ in range(count):
        shared = beginning[: rng.choice([0, 0, 16, 40, 50])]
        prompt = shared + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 70 - len(shared)))]
        sampling = random_sampling(rng)
        rules = random_rules(rng)
        if rules is not None and "grammar" in rules:
            sampling = replace(sampling, min_tokens=0, ignore_eos=False, repetition_penalty=1.0)
        found.append((prompt, sampling, rules))
    return found


def engine_of(
    sizes: EngineLimits | None = None, *, drafts: int = 0, right: float = 0.8, shuffle: Random | None = None
) -> Driver:
    sizes = replace(sizes or limits(), drafts=drafts)
    return Driver(FakeModel(right=right), sizes=sizes, eos_ids=frozenset({1}), shuffle=shuffle)


def run(driver: Driver, asked: list[Asked], rng: Random) -> list[Received]:
    received = []
    for prompt, sampling, rules in asked:
        received.append(driver.submit(prompt, sampling, rules=made(rules, [])))
        for _ in range(rng.randint(0, 3)):
            driver.engine.step()
    driver.finish()
    return received


def assert_same(found: Received, expected: Received, start: int = 0) -> None:
    """But for how much of a prompt was in the cache."""
    answers = [[replace(token, cached=0) for token in one.tokens if not token.rank] for one in (found, expected)]
    assert answers[0] == answers[1][start:]
    assert found.scores == expected.scores
    assert found.endings == expected.endings


SIZES = {
    "roomy": limits(num_pages=128, max_batch_tokens=64, max_running=16),
    "chunks": limits(num_pages=128, max_batch_tokens=9, max_running=6),
    "preemption": limits(num_pages=11, max_batch_tokens=24, max_running=8, max_len=160),
    "few scores": limits(num_pages=128, max_batch_tokens=20, max_running=6, max_scores=3),
    "two tiers": limits(num_pages=14, max_batch_tokens=24, max_running=4, max_len=160, host_pages=20),
}


@pytest.mark.parametrize(
    ("size", "drafts"),
    [("roomy", 1), ("chunks", 3), ("preemption", 1), ("preemption", 3), ("few scores", 2), ("two tiers", 2)],
)
def test_any_requests_get_the_same_with_drafts(size: str, drafts: int) -> None:
    rng = Random(f"{size} {drafts}")
    asked = requests(rng, 16)
    expected = run(engine_of(), asked, rng)
    shares = []
    for right in (0.0, 0.7, 1.0):
        driver = engine_of(SIZES[size], drafts=drafts, right=right, shuffle=rng)
        for found, alone in zip(run(driver, asked, rng), expected, strict=True):
            assert_same(found, alone)
        counters = driver.drafted
        assert counters.tokens >= counters.drafts > 50
        shares.append(sum(counters.accepted) / counters.tokens)
        assert driver.engine.scheduler.prefix_hits > 0 or size != "roomy", "pages are shared"
        assert driver.engine.scheduler.preemptions > 0 or size != "preemption"
        assert driver.engine.cache.pages.host.loads > 0 or size != "two tiers"
    assert shares == sorted(shares)
    assert shares[-1] > 0.6


def test_the_requests_differ() -> None:
    """Guards the test above: the requests end in every way, and their answers are no loops."""
    asked = requests(Random("roomy 1"), 24) + requests(Random("chunks 2"), 24)
    found = run(engine_of(), asked, Random(0))
    assert {received.endings[0].reason for received in found} == {"stop", "length"}
    assert sum(len(received.ids) for received in found) > 700
    assert len({token.logits_checksum for received in found for token in received.tokens}) > 400


@pytest.mark.parametrize("drafts", [1, 3])
def test_drafts_may_be_switched_between_attempts(drafts: int) -> None:
    rng = Random(drafts)
    for prompt, sampling, rules in requests(rng, 12):
        whole = engine_of()
        expected = whole.submit(prompt, sampling, rules=made(rules, []))
        whole.finish()
        for cut in {1, len(expected.ids) // 2, len(expected.ids) - 1} - {0, -1}:
            emitted = expected.ids[:cut]
            driver = engine_of(drafts=drafts, right=0.9)
            scored = len(prompt) if sampling.prompt_logprobs is not None else 0
            rest = driver.submit(prompt, sampling, emitted, rules=made(rules, emitted), scored=scored)
            driver.finish()
            rest.tokens += expected.scores
            assert_same(rest, expected, cut)


def test_a_draft_with_the_right_logits_is_accepted_whatever_the_sampling() -> None:
    """It is drawn with the noise, penalties, bias, masks and rules of the next token, and of no other."""
    rng = Random(5)
    asked = requests(rng, 30)
    driver = engine_of(
        limits(num_pages=256, max_batch_tokens=128, max_running=32, prefix_cache=False), drafts=1, right=1.0
    )
    run(driver, asked, rng)
    counters = driver.drafted
    assert counters.drafts > 100
    assert counters.accepted[0] == counters.drafts == counters.tokens


def test_steps_fall_as_drafts_are_right() -> None:
    steps = []
    for right, drafts in ((0.0, 0), (0.5, 1), (1.0, 1), (1.0, 3)):
        driver = engine_of(drafts=drafts, right=right)
        driver.submit([5, 6, 7], Sampling(max_tokens=41, ignore_eos=True))
        driver.finish()
        steps.append(driver.engine.counters.steps)
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], *steps[2:]) == (41, 21, 11)


def test_several_tokens_come_in_one_delivery() -> None:
    deliveries: list[int] = []
    driver = engine_of(drafts=3, right=1.0)
    received = driver.submit([5, 6, 7], Sampling(max_tokens=9, ignore_eos=True))
    while driver.engine.busy:
        before = len(received.ids)
        driver.engine.step()
        deliveries.append(len(received.ids) - before)
    assert deliveries == [1, 4, 4]


def test_cancelled_sequences_give_the_pages_of_drafts_back() -> None:
    rng = Random(3)
    driver = engine_of(limits(num_pages=40, page_size=16), drafts=3, right=0.5)
    for _ in range(30):
        received = driver.submit([rng.randrange(VOCAB) for _ in range(rng.randint(1, 40))], Sampling(max_tokens=60))
        for _ in range(rng.randint(1, 9)):
            driver.engine.step()
        driver.cancel(received)
    driver.finish()


def test_drafts_take_no_page_that_a_token_needs() -> None:
    """Two answers fill the cache to its last page; nothing is preempted that would not be without drafts."""
    for drafts in (0, 3):
        driver = engine_of(limits(num_pages=4, page_size=16, max_running=2, max_len=32), drafts=drafts, right=0.5)
        for prompt in ([5, 6, 7], [8, 9]):
            driver.submit(prompt, Sampling(ignore_eos=True))
        driver.finish()
        assert driver.engine.scheduler.preemptions == 0


def test_a_draft_that_fails_costs_no_token() -> None:
    class Failing(FakeModel):
        def draft(self, step: Step, rows_T: Tensor, caches: list[Tensor]) -> Tensor:
            raise RuntimeError("no draft today")

    sampling = Sampling(max_tokens=20, ignore_eos=True)
    expected, failing = engine_of(), Driver(Failing(right=1.0), sizes=limits(drafts=2))
    found = [driver.submit([5, 6, 7], sampling) for driver in (expected, failing)]
    expected.finish()
    failing.finish()
    assert_same(found[1], found[0])
    assert failing.engine.drafter is not None
    assert failing.engine.drafter.counters.failed == 20


def learned(tokens: int, seconds: float, fixed_s: float) -> StepCost:
    cost = StepCost()
    for _ in range(50):
        cost.observe(Work(1, 10, 0), fixed_s + seconds)
        cost.observe(Work(tokens, 10 * tokens, 0), fixed_s + tokens * seconds)
    return cost


def test_a_full_step_drafts_nothing_and_an_empty_one_does() -> None:
    policy = DraftPolicy(3, learned(64, 1e-3, 5e-3))
    one, *others = (_sequence() for _ in range(64))
    policy.begin([one], [])
    assert policy.wanted(one) == 3
    policy.begin([one, *others[:7]], [])
    assert policy.wanted(one) == 1
    policy.begin([one, *others], [])
    assert policy.wanted(one) == 0


def test_a_sequence_whose_drafts_are_wrong_is_left_alone_and_tried_again() -> None:
    policy = DraftPolicy(1, learned(64, 1e-3, 5e-3))
    sequence, drafted = _sequence(), []
    for _ in range(300):
        policy.begin([sequence], [])
        drafted.append(policy.wanted(sequence))
        if drafted[-1]:
            policy.verified(sequence, 1, 0)
    assert 0 < sum(drafted[100:]) < 20
    assert sequence.acceptance < FIRST_ACCEPTANCE / 2


def _sequence() -> Sequence:
    driver = engine_of()
    received = driver.submit([5, 6, 7], Sampling(max_tokens=50))
    driver.engine.step()
    return driver.engine._sequences[received.key]
