"""Rules of what may follow: allowed and banned ids, budgets of reasoning, alone and over attempts."""

import numpy as np
import pytest
from support.engine_driver import Driver, Received
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.engine.token_rules import Reasoning, TokenRules

BEGIN, END = 90, 91


def row() -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.zeros(VOCAB, np.float32)


def may_follow(rules: TokenRules) -> list[int]:
    row_V = row()
    rules.apply(row_V)
    return np.flatnonzero(np.isfinite(row_V)).tolist()


def answer(rules: TokenRules, emitted: list[int] | None = None, frequency_penalty: float = 0.0) -> Received:
    for token in emitted or ():
        rules.accept(token)
    driver = Driver(FakeModel())
    asked = Sampling(max_tokens=40, temperature=1.0, frequency_penalty=frequency_penalty)
    received = driver.submit([3, 1, 4], asked, emitted, rules=rules)
    driver.finish()
    return received


def test_only_allowed_ids_come() -> None:
    received = answer(TokenRules(frozenset({4, 9, 60})))
    assert set(received.ids) == {4, 9, 60}


def test_banned_ids_and_sequences_do_not_come() -> None:
    rules = TokenRules(banned=[(5,), (7, 8), (1, 2, 3)])
    everything = set(range(VOCAB))
    assert set(may_follow(rules)) == everything - {5}
    for token in (7, 1, 2):
        rules.accept(token)
        expected = {7: {5, 8}, 1: {5}, 2: {5, 3}}[token]
        assert set(may_follow(rules)) == everything - expected


@pytest.mark.parametrize("opened", [True, False])
def test_reasoning_ends_at_its_budget(opened: bool) -> None:
    rules = TokenRules(reasoning=Reasoning(begin_id=BEGIN, end_id=END, open=opened, budget=3))
    if not opened:
        rules.accept(8)
        rules.accept(BEGIN)
    for token in (1, 2, 3):
        assert len(may_follow(rules)) == VOCAB
        rules.accept(token)
    assert may_follow(rules) == [END]
    rules.accept(END)
    assert len(may_follow(rules)) == VOCAB
    rules.accept(BEGIN)  # a second block has no budget left
    assert may_follow(rules) == [END]


def test_reasoning_that_ends_early_is_not_forced() -> None:
    rules = TokenRules(reasoning=Reasoning(begin_id=BEGIN, end_id=END, open=True, budget=2))
    for token in (1, END, 2, 3, 4, 5):
        rules.accept(token)
        assert len(may_follow(rules)) == VOCAB


def test_a_budget_of_nothing_ends_reasoning_at_once() -> None:
    received = answer(TokenRules(reasoning=Reasoning(begin_id=BEGIN, end_id=END, open=True, budget=0)))
    assert received.ids[0] == END


@pytest.mark.parametrize("cut", [1, 7, 39])
def test_an_attempt_goes_on_under_the_same_rules(cut: int) -> None:
    def rules() -> TokenRules:
        reasoning = Reasoning(begin_id=BEGIN, end_id=END, open=True, budget=10)
        return TokenRules(banned=[(5,), (7, 8)], reasoning=reasoning)

    whole = answer(rules(), frequency_penalty=0.4)
    assert whole.ids[10] == END or END in whole.ids[:10]
    rest = answer(rules(), whole.ids[:cut], frequency_penalty=0.4)
    assert rest.tokens == whole.tokens[cut:]


def test_rules_that_allow_nothing_reject_that_request_only() -> None:
    driver = Driver(FakeModel())
    plain = driver.submit([1, 2], Sampling(max_tokens=5))
    none = driver.submit([1, 2], Sampling(max_tokens=5), rules=TokenRules(frozenset({4}), banned=[(4,)]))
    driver.finish()
    assert none.endings[0].reason == "rejected"
    assert "allow no token" in none.endings[0].message
    assert not none.tokens
    alone = Driver(FakeModel())
    expected = alone.submit([1, 2], Sampling(max_tokens=5))
    alone.finish()
    assert plain.tokens == expected.tokens


def test_logprobs_are_the_models_own() -> None:
    driver = Driver(FakeModel())
    asked = Sampling(max_tokens=3, logprobs=True, top_logprobs=5)
    received = driver.submit([1, 2], asked, rules=TokenRules(frozenset({4})))
    driver.finish()
    assert all(token.logprob < max(value for _, value in token.top) for token in received.tokens)


class Until:
    """A grammar that is complete after some ids."""

    end_id = 2

    def __init__(self, count: int) -> None:
        self._left = count

    def begin(self) -> None:
        pass

    def ceiling(self) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        room = np.full(VOCAB, -np.inf, np.float32)
        room[[8, 9] if self._left else [self.end_id]] = np.inf
        return room

    def accept(self, token: int) -> None:
        self._left -= 1


def ends_of(rules: TokenRules, stop_ids: set[int]) -> list[int]:
    row_V = row()
    rules.apply(row_V, stop_ids)
    return np.flatnonzero(np.isfinite(row_V)).tolist()


def test_every_stop_id_ends_a_complete_grammar_and_no_other() -> None:
    rules = TokenRules(grammar=Until(1))
    assert ends_of(rules, {2, 50}) == [8, 9]
    rules.accept(8)
    assert ends_of(rules, {2, 50}) == [2, 50]


def test_an_answer_with_a_grammar_does_not_end_within_reasoning() -> None:
    rules = TokenRules(reasoning=Reasoning(begin_id=BEGIN, end_id=END, open=True), grammar=Until(1))
    assert set(ends_of(rules, {2, 50})) == set(range(VOCAB)) - {2, 50}
    rules.accept(END)
    assert ends_of(rules, {2, 50}) == [8, 9]
