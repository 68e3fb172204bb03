"""Sampling around the op: penalties, bias, masks, log-probabilities, checksums; each row independent of the others."""

import zlib
from typing import Any

import pytest
import torch

from services.attention_worker.engine.sampler import NonFiniteLogits, sample_tokens
from services.attention_worker.engine.sequence import Request, Sampling, Sequence, TokenOut

V = 50
LOGITS_V = torch.randn(V, generator=torch.Generator().manual_seed(1)) * 3


def sequence(prompt: tuple[int, ...] = (1, 2), emitted: tuple[int, ...] = (), **asked: Any) -> Sequence:
    request = Request(request_id="r", prompt_ids=prompt, emitted_ids=emitted, sampling=Sampling(**asked))
    return Sequence(0, request, request.sampling.stop_ids, 1000, lambda tokens, ending: None)


def one(row_V: torch.Tensor, asked: Sequence) -> TokenOut:
    (token,) = sample_tokens(row_V[None], [asked])
    assert isinstance(token, TokenOut)
    return token


def ranking() -> list[int]:
    ids: list[int] = LOGITS_V.argsort(descending=True).tolist()
    return ids


def test_greedy_takes_the_largest_and_ties_the_lowest_id() -> None:
    assert one(LOGITS_V, sequence()).id == ranking()[0]
    assert one(torch.zeros(V), sequence()).id == 0


def test_the_checksum_is_of_the_row_as_the_model_gave_it() -> None:
    expected = zlib.crc32(LOGITS_V.numpy().tobytes())
    for asked in (sequence(), sequence(logit_bias={3: 9.0}, repetition_penalty=1.5), sequence(temperature=0.7, seed=4)):
        before = LOGITS_V.clone()
        assert one(LOGITS_V, asked).logits_checksum == expected
        assert torch.equal(before, LOGITS_V), "the model's logits are left alone"


def test_logit_bias_forbids_and_forces() -> None:
    best, second, *_, worst = ranking()
    assert one(LOGITS_V, sequence(logit_bias={best: -100.0})).id == second
    assert one(LOGITS_V, sequence(logit_bias={worst: 100.0})).id == worst


def test_penalties_follow_their_formulas() -> None:
    best, second = ranking()[:2]
    gap = float(LOGITS_V[best] - LOGITS_V[second])
    once, thrice = (best,), (best,) * 3
    assert one(LOGITS_V, sequence(emitted=once, presence_penalty=gap * 0.9)).id == best
    assert one(LOGITS_V, sequence(emitted=once, presence_penalty=gap * 1.1)).id == second
    assert one(LOGITS_V, sequence(emitted=thrice, presence_penalty=gap * 0.9)).id == best, "presence counts once"
    assert one(LOGITS_V, sequence(emitted=thrice, frequency_penalty=gap * 0.4)).id == second, "frequency counts thrice"
    assert one(LOGITS_V, sequence((best,), frequency_penalty=2.0, presence_penalty=2.0)).id == best, "prompt is free"
    ratio = float(LOGITS_V[best] / LOGITS_V[second])
    assert one(LOGITS_V, sequence((best,), repetition_penalty=ratio * 1.01)).id == second, "repetition sees the prompt"
    negative = LOGITS_V - 100.0
    assert one(negative, sequence((best,), repetition_penalty=2.0)).id == second, "negative logits are multiplied"


def test_stop_ids_are_masked_until_min_tokens() -> None:
    best, second = ranking()[:2]
    stop = frozenset({best})
    assert one(LOGITS_V, sequence(emitted=(9,) * 3, min_tokens=4, stop_ids=stop)).id == second
    assert one(LOGITS_V, sequence(emitted=(9,) * 4, min_tokens=4, stop_ids=stop)).id == best


def test_logprobs_are_the_models_own() -> None:
    token = one(
        LOGITS_V, sequence(logprobs=True, top_logprobs=5, temperature=2.0, seed=8, logit_bias={ranking()[0]: -100.0})
    )
    expected_V = torch.log_softmax(LOGITS_V.double(), -1)
    assert token.logprob == pytest.approx(float(expected_V[token.id]), abs=1e-5)
    assert [id for id, _ in token.top] == ranking()[:5]
    assert [value for _, value in token.top] == pytest.approx(expected_V[ranking()[:5]].tolist(), abs=1e-5)
    assert one(LOGITS_V, sequence(logprobs=True)).top == ()
    assert one(LOGITS_V, sequence()).logprob == 0.0


def test_a_row_does_not_see_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(2)
    logits_BV = torch.randn(40, V, generator=generator)
    asked = [
        sequence(
            tuple(range(1 + index % 5)),
            tuple(range(index % 7)),
            temperature=(0.0, 0.7, 1.3)[index % 3],
            seed=index - 20,
            top_k=index % 4 * 5,
            top_p=(1.0, 0.8)[index % 2],
            min_p=(0.0, 0.05)[index % 5 // 4],
            frequency_penalty=(0.0, 0.6)[index % 2],
            repetition_penalty=(1.0, 1.3)[index % 3 // 2],
            logit_bias={index: 2.0} if index % 4 == 1 else {},
            logprobs=index % 2 == 0,
            top_logprobs=index % 4,
        )
        for index in range(40)
    ]
    together = sample_tokens(logits_BV, asked)
    assert together == [one(row, each) for row, each in zip(logits_BV, asked, strict=True)]
    backwards = sample_tokens(logits_BV.flip(0).contiguous(), asked[::-1])
    assert together == backwards[::-1]


def test_sampling_depends_on_seed_and_position() -> None:
    flat = torch.zeros(V)
    by_seed = {one(flat, sequence(temperature=1.0, seed=seed)).id for seed in range(-40, 40)}
    by_position = {one(flat, sequence((1,) * length, temperature=1.0, seed=3)).id for length in range(1, 80)}
    assert len(by_seed) > 25
    assert len(by_position) > 25


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_gives_no_token(bad: float) -> None:
    logits_BV = LOGITS_V.repeat(3, 1)
    logits_BV[1, 7] = bad
    tokens = sample_tokens(logits_BV, [sequence(), sequence(), sequence()])
    assert isinstance(tokens[1], NonFiniteLogits)
    assert tokens[0] == tokens[2] == one(LOGITS_V, sequence())


def test_one_native_call_draws_what_the_ops_draw() -> None:
    generator = torch.Generator().manual_seed(3)
    logits_BV = torch.randn(24, 3000, generator=generator) * 4
    logits_BV[5, 7], logits_BV[9, 0] = torch.nan, torch.inf
    asked = [
        sequence(
            (1,) * (i + 1),
            temperature=0.3 * (i % 4),
            seed=i * 7919 - 40,
            top_k=i % 3 * 9,
            top_p=1 - 0.02 * i,
            min_p=0.01 * (i % 2),
        )
        for i in range(24)
    ]
    forbidden = sequence(logit_bias={0: -1.0})  # a row that is changed before the op: then Python calls the ops
    by_ops = sample_tokens(torch.cat([logits_BV, LOGITS_V.repeat(60)[None]]), [*asked, forbidden])
    at_once = sample_tokens(logits_BV, asked)
    assert [str(each) for each in at_once] == [str(each) for each in by_ops[:-1]]
    assert [i for i, each in enumerate(at_once) if isinstance(each, NonFiniteLogits)] == [5, 9]
