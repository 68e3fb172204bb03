"""A prompt's log-probabilities are those of the rows before its tokens, however it is cut into steps."""

from dataclasses import replace
from random import Random

import pytest
import torch
from support.engine_driver import Driver, Received, limits
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.engine.sequence import Ending, Sampling, TokenOut

ONLY = Sampling(prompt_logprobs=3, prompt_only=True)
BOTH = Sampling(prompt_logprobs=3, max_tokens=9, temperature=0.7, seed=5)


def scored(prompt: list[int], sampling: Sampling, sizes: EngineLimits | None = None) -> Received:
    driver = Driver(FakeModel(), sizes=sizes)
    received = driver.submit(prompt, sampling)
    driver.finish()
    return received


def test_scores_are_those_of_the_rows_before() -> None:
    prompt = [5, 17, 3, 80, 2]
    received = scored(prompt, ONLY)
    assert received.endings == [Ending("length")]
    assert not received.ids
    assert [(token.index, token.id) for token in received.scores] == [(1, 17), (2, 3), (3, 80), (4, 2)]
    for token, row_V in zip(received.scores, received.rows, strict=True):
        logprobs_V = torch.log_softmax(row_V, -1)
        values, ids = torch.topk(logprobs_V, 3)
        assert token.logprob == float(logprobs_V[token.id])
        assert token.top == tuple(zip(ids.tolist(), values.tolist(), strict=True))
        assert token.rank == 1 + int((logprobs_V > logprobs_V[token.id]).sum())


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("sampling", [ONLY, BOTH], ids=["only", "with an answer"])
def test_chunks_change_nothing(length: int, sampling: Sampling) -> None:
    prompt = [(7 * i + 3) % VOCAB for i in range(length)]
    whole = scored(prompt, sampling)
    assert [token.index for token in whole.scores] == list(range(1, length))
    for budget, most in ((16, 256), (64, 5), (17, 1)):
        cut = scored(prompt, sampling, limits(max_batch_tokens=budget, max_scores=most, max_running=4))
        assert cut.tokens == whole.tokens


def test_no_step_scores_more_than_the_bound() -> None:
    driver = Driver(FakeModel(), sizes=limits(max_scores=10))
    received = [driver.submit([i + 1] * 40, ONLY) for i in range(3)]
    rows = 0
    while driver.engine.step():
        total = sum(len(one.rows) for one in received)
        assert total - rows <= 10
        rows = total
    assert rows == 3 * 39


def test_a_preempted_prompt_is_scored_once() -> None:
    rng = Random(5)
    driver = Driver(
        FakeModel(), sizes=limits(num_pages=6, max_batch_tokens=30, max_running=6, max_len=96, max_scores=9)
    )
    asked = [([rng.randrange(VOCAB) for _ in range(rng.randint(20, 60))], BOTH) for _ in range(8)]
    together = [driver.submit(*one) for one in asked]
    driver.finish()
    assert driver.engine.scheduler.preemptions
    for received, one in zip(together, asked, strict=True):
        assert received.tokens == scored(*one).tokens


@pytest.mark.parametrize("delivered", [0, 1, 2, 20, 40])
def test_an_attempt_goes_on_where_the_one_before_ended(delivered: int) -> None:
    prompt = [(11 * i + 1) % VOCAB for i in range(40)]
    whole = scored(prompt, BOTH)
    driver = Driver(FakeModel())
    rest = driver.submit(prompt, BOTH, scored=delivered)
    driver.finish()
    assert rest.scores == [token for token in whole.scores if token.index >= delivered]
    assert rest.ids == whole.ids


def test_others_get_the_same_bits_beside_a_scored_prompt() -> None:
    plain = Sampling(max_tokens=20, temperature=0.8, seed=3)
    alone = scored([1, 2, 3], plain)
    driver = Driver(FakeModel(), sizes=limits(max_batch_tokens=16, max_scores=4))
    beside = driver.submit([1, 2, 3], plain)
    driver.submit([9] * 50, ONLY)
    driver.finish()
    assert beside.tokens == alone.tokens


def test_a_prompt_that_fills_the_cache_is_scored() -> None:
    received = scored([1] * 255, ONLY, limits(num_pages=16, max_len=256))
    assert len(received.scores) == 254
    assert received.endings == [Ending("length")]


def test_nothing_to_do_ends_at_once() -> None:
    received = scored([1, 2], Sampling(prompt_only=True))
    assert (received.tokens, received.endings) == ([], [Ending("length")])


def test_a_row_that_is_not_finite_fails_its_prompt_only() -> None:
    model = FakeModel()
    model.rows[:] = torch.nan
    driver = Driver(model)
    received = driver.submit([1, 2, 3], ONLY)
    driver.finish()
    assert received.endings[0].reason == "failed"
    assert not any(isinstance(token, TokenOut) for token in received.tokens)


def test_prompts_behind_scored_ones_do_not_wait_for_scores() -> None:
    driver = Driver(FakeModel(), sizes=limits(max_batch_tokens=64, max_scores=10))
    scoring = [driver.submit([i + 1] * 60, ONLY) for i in range(4)]
    plain = driver.submit([9] * 30, Sampling(max_tokens=1))
    driver.engine.step()
    assert len(plain.ids) == 1
    driver.finish()
    assert [one.tokens for one in scoring] == [scored([i + 1] * 60, ONLY).tokens for i in range(4)]


def test_checksums_of_scores_are_those_of_the_tokens_as_they_were_drawn() -> None:
    """So an answer can be computed again as a prompt, anew, and compared."""
    prompt = [(13 * i + 5) % VOCAB for i in range(40)]
    driver = Driver(FakeModel())
    drawn = driver.submit(prompt, Sampling(max_tokens=50, temperature=0.8, seed=3))
    driver.finish()
    before = driver.engine.counters.model_tokens
    again = driver.submit([*prompt, *drawn.ids], replace(ONLY, prompt_logprobs=0), scored=40, probe=True)
    driver.finish()
    assert [(one.id, one.logits_checksum) for one in again.scores] == [
        (one.id, one.logits_checksum) for one in drawn.tokens
    ]
    computed = driver.engine.counters.model_tokens - before
    assert computed >= 89, "what is cached is not compared with itself"
