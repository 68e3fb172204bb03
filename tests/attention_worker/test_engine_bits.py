"""A sequence's logits are the same, bit for bit, whatever else runs in the engine: the numerics contract by request.

The real model on a random checkpoint. Whole logits rows and checksums are compared, over more than 50 steps, greedy and
sampled with penalties.
"""

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from numpy.typing import NDArray
from support.engine_driver import Driver, Received, limits
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import NGRAM, WIDE_TOP_K, make_checkpoint

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.engine.step_cost import StepCost, Work
from services.attention_worker.engine.token_rules import TokenRules
from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher

STEPS = 52
KINDS = {
    "greedy": Sampling(max_tokens=STEPS, ignore_eos=True),
    "sampled": Sampling(max_tokens=STEPS, ignore_eos=True, temperature=0.9, top_p=0.95, seed=-77),
    "penalised": Sampling(
        max_tokens=STEPS,
        ignore_eos=True,
        temperature=1.1,
        top_k=40,
        min_p=0.01,
        seed=2**62,
        repetition_penalty=1.1,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias={17: 1.5},
    ),
}
ModelAndDispatcher = tuple[Model, ReferenceDispatcher]


CASES = [
    pytest.param((WIDE_TOP_K, torch.float32), id="fp32"),
    pytest.param((WIDE_TOP_K, torch.bfloat16), id="bf16"),
    pytest.param((NGRAM, torch.bfloat16), id="ngram-bf16"),
    pytest.param((WIDE_TOP_K, torch.bfloat16, "fp8"), id="bf16-kv-fp8"),
]


@pytest.fixture(scope="module", params=CASES)
def model_and_dispatcher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ModelAndDispatcher:
    torch.set_num_threads(1)
    preset, dtype, *kv = request.param
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("bits"), preset, seed=5))
    model = load_model(checkpoint, dtype, lambda done, total: None, kv_fp8=bool(kv))
    return model, ReferenceDispatcher(checkpoint, dtype)


def prompt(rng: Random, longest: int = 50) -> list[int]:
    ids = [rng.randrange(3, 300) for _ in range(rng.randint(1, longest))]
    return [2 if rng.random() < 0.1 else each for each in ids]  # at a 2 the context of n-grams ends


@pytest.fixture(scope="module")
def alone(model_and_dispatcher: ModelAndDispatcher) -> dict[str, tuple[list[int], Received]]:
    """Each kind of request by itself, its prompt in one chunk."""
    rng = Random(1)
    result = {}
    for kind, sampling in KINDS.items():
        asked = prompt(rng, 40)
        driver = Driver(*model_and_dispatcher)
        result[kind] = (asked, driver.submit(asked, sampling))
        driver.finish()
    return result


@pytest.fixture(scope="module")
def three_worker_dispatcher(model_and_dispatcher: ModelAndDispatcher) -> Iterator[MoEDispatcher]:
    """Three workers in memory: expert e of layer l is on worker (l + e) % 3, for odd e also on the next."""
    model, plain = model_and_dispatcher
    config = model.config
    experts = Experts(plain.checkpoint, model.dtype)
    layers = []
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts):
            experts.load(layer, expert)
        replicas = [sorted({(layer + e) % 3, (layer + e + e % 2) % 3}) for e in range(config.n_routed_experts)]
        layers.append(layer_of(replicas))
    endpoints = [Endpoint(worker_id=f"expert-{n}", address=f"local:{n}", boot_id=str(n)) for n in range(3)]
    dispatcher = MoEDispatcher(lambda endpoint: LocalLink(experts), config)
    dispatcher.apply(Table(epoch=1, workers=endpoints, layers=layers))
    yield dispatcher
    dispatcher.close()


def assert_same(received: Received, expected: Received, start: int = 0) -> None:
    assert received.tokens == expected.tokens[start:], "indices, ids and checksums"
    assert torch.equal(torch.stack(received.rows), torch.stack(expected.rows[start:]))
    assert received.endings == expected.endings


def submit_others(driver: Driver, rng: Random, count: int) -> list[Received]:
    """Submits other requests, greedy and sampled."""
    return [
        driver.submit(
            prompt(rng),
            Sampling(max_tokens=rng.randint(1, 60), temperature=rng.choice([0.0, 1.0]), seed=rng.getrandbits(60)),
            caller=rng.randint(0, 2),
        )
        for _ in range(count)
    ]


MIXES = {
    "one step each": limits(max_batch_tokens=64, max_running=16, num_pages=128),
    "chunks of five": limits(max_batch_tokens=5, max_running=4, num_pages=64),
    "pages of 64": limits(page_size=64, max_batch_tokens=24, max_running=8, num_pages=32),
    "preemption": limits(max_batch_tokens=24, max_running=8, num_pages=16),
    "callers take turns": limits(max_batch_tokens=24, max_running=12, num_pages=64, slowdown=1.0),
}


@pytest.mark.parametrize("mix", MIXES)
def test_with_other_requests_in_any_batch(
    model_and_dispatcher: ModelAndDispatcher, alone: dict[str, tuple[list[int], Received]], mix: str
) -> None:
    rng = Random(mix)
    driver = Driver(*model_and_dispatcher, MIXES[mix], shuffle=rng)
    ours: dict[str, Received] = {}
    for kind, (asked, _) in alone.items():
        others = submit_others(driver, rng, 3)
        ours[kind] = driver.submit(asked, KINDS[kind])
        for _ in range(rng.randint(1, 9)):
            driver.engine.step()
        driver.cancel(others[0])
    driver.finish()
    assert (driver.engine.scheduler.preemptions > 0) == (mix == "preemption")
    for kind, (_, expected) in alone.items():
        assert len(expected.rows) == STEPS
        assert_same(ours[kind], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_from_any_cut(
    model_and_dispatcher: ModelAndDispatcher, alone: dict[str, tuple[list[int], Received]], kind: str
) -> None:
    asked, expected = alone[kind]
    rng = Random(kind)
    for cut in (1, *rng.sample(range(2, STEPS), 4)):
        driver = Driver(*model_and_dispatcher, limits(max_batch_tokens=rng.randint(4, 40), max_running=4), shuffle=rng)
        submit_others(driver, rng, 1)
        rest = driver.submit(asked, KINDS[kind], emitted=expected.ids[:cut])
        driver.finish()
        assert_same(rest, expected, start=cut)


def test_with_experts_on_three_workers(
    model_and_dispatcher: ModelAndDispatcher,
    alone: dict[str, tuple[list[int], Received]],
    three_worker_dispatcher: MoEDispatcher,
) -> None:
    rng = Random(9)
    driver = Driver(model_and_dispatcher[0], three_worker_dispatcher, limits(max_batch_tokens=20, max_running=6))
    ours = {kind: driver.submit(asked, KINDS[kind]) for kind, (asked, _) in alone.items()}
    submit_others(driver, rng, 4)
    driver.finish()
    for kind, (_, expected) in alone.items():
        assert_same(ours[kind], expected)
    sums = three_worker_dispatcher.stats.total()
    assert 0 < sums.ffn_choices < sums.choices
    assert sums.tokens_all_zero > 0


class DrawnCost(StepCost):
    """Learns from drawn times instead of measured ones, from a thirtieth to the threefold of the bound."""

    def __init__(self, rng: Random, bound_s: float) -> None:
        super().__init__()
        self._rng, self._bound_s = rng, bound_s
        self.sizes: set[int] = set()  # tokens of the steps with a part of a prompt

    def observe(self, work: Work, seconds: float) -> None:
        if work.prompt_keys:
            self.sizes.add(work.tokens)
        super().observe(work, self._bound_s * 10 ** self._rng.uniform(-1.5, 0.5))


@pytest.mark.parametrize("seed", range(3))
def test_with_chunks_that_follow_the_cost_of_steps(
    model_and_dispatcher: ModelAndDispatcher, alone: dict[str, tuple[list[int], Received]], seed: int
) -> None:
    rng = Random(seed)
    sizes = limits(max_batch_tokens=24, max_running=6, num_pages=128, max_itl_s=3e-3)
    driver = Driver(*model_and_dispatcher, sizes, shuffle=rng)
    driver.engine.scheduler.cost = cost = DrawnCost(rng, sizes.max_itl_s)
    decoding = driver.submit([5, 6, 7], Sampling(max_tokens=200, ignore_eos=True))
    ours: dict[str, Received] = {}
    for kind, (asked, _) in alone.items():
        submit_others(driver, rng, 3)
        ours[kind] = driver.submit(asked, KINDS[kind])
        for _ in range(30):
            driver.engine.step()
    driver.finish()
    for kind, (_, expected) in alone.items():
        assert_same(ours[kind], expected)
    assert len(decoding.rows) == 200
    assert len(cost.sizes) > 4, "chunks of several sizes, or this test shows nothing"


def test_the_requests_differ(alone: dict[str, tuple[list[int], Received]]) -> None:
    """Guards the tests above: the answers differ, and none repeats one token."""
    assert all(len(set(received.ids)) > 10 for _, received in alone.values())
    greedy, sampled = alone["greedy"][1], alone["sampled"][1]
    assert len({token.logits_checksum for received in (greedy, sampled) for token in received.tokens}) > STEPS


class EverySeventh:
    """A grammar: the nth token is n modulo 7."""

    def __init__(self, vocab: int) -> None:
        self._ids = np.arange(vocab) % 7
        self._taken, self.end_id = 0, 0

    def begin(self) -> None:
        pass

    def ceiling(self) -> NDArray[np.float32]:
        return np.where(self._ids == self._taken % 7, np.inf, -np.inf).astype(np.float32)

    def accept(self, token: int) -> None:
        assert token % 7 == self._taken % 7
        self._taken += 1


@pytest.mark.parametrize("kind", KINDS)
def test_constrained_output_has_its_bits_in_every_attempt(model_and_dispatcher: ModelAndDispatcher, kind: str) -> None:
    def rules(emitted: list[int]) -> TokenRules:
        made = TokenRules(banned=[(3,), (4, 5)], grammar=EverySeventh(model_and_dispatcher[0].config.vocab_size))
        for token in emitted:
            made.accept(token)
        return made

    rng = Random(7)
    asked, sampling = prompt(rng, 40), KINDS[kind]
    driver = Driver(*model_and_dispatcher)
    whole = driver.submit(asked, sampling, rules=rules([]))
    driver.finish()
    assert [token % 7 for token in whole.ids] == [place % 7 for place in range(STEPS)]
    for cut in (1, 17, STEPS - 1):
        again = Driver(*model_and_dispatcher, sizes=limits(max_batch_tokens=16))
        others = submit_others(again, rng, 3)
        rest = again.submit(asked, sampling, whole.ids[:cut], rules=rules(whole.ids[:cut]))
        again.finish()
        assert all(other.endings for other in others)
        assert_same(rest, whole, cut)
