"""A sequence's logits, bit for bit, whatever else happens in the engine: the numerics contract, request by request.

The real model on a random checkpoint. Whole logits rows and checksums are compared, over 50 steps and more,
greedy and sampled with penalties.
"""

from collections.abc import Iterator
from random import Random

import pytest
import torch
from caracal_proto.placement_pb2 import Endpoint, LayerPlacement, Replicas, Table
from support.engine_driver import Driver, Heard, limits
from support.reference_dispatcher import PlainExchange
from support.tiny_checkpoint import WIDE_TOP_K, make_checkpoint

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher

STEPS = 52
PENALISED = {"repetition_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.2, "logit_bias": {17: 1.5}}
KINDS = {
    "greedy": Sampling(max_tokens=STEPS, ignore_eos=True),
    "sampled": Sampling(max_tokens=STEPS, ignore_eos=True, temperature=0.9, top_p=0.95, seed=-77),
    "penalised": Sampling(
        max_tokens=STEPS, ignore_eos=True, temperature=1.1, top_k=40, min_p=0.01, seed=2**62, **PENALISED
    ),
}
Cluster = tuple[Model, PlainExchange]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("bits"), WIDE_TOP_K, seed=5))
    return load_model(checkpoint, request.param, lambda done, total: None), PlainExchange(checkpoint, request.param)


def prompt(rng: Random, longest: int = 50) -> list[int]:
    return [rng.randrange(3, 300) for _ in range(rng.randint(1, longest))]


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> dict[str, tuple[list[int], Heard]]:
    """Each kind of request by itself, its prompt in one piece."""
    rng = Random(1)
    result = {}
    for kind, sampling in KINDS.items():
        asked = prompt(rng, 40)
        driver = Driver(*cluster)
        result[kind] = (asked, driver.submit(asked, sampling))
        driver.finish()
    return result


@pytest.fixture(scope="module")
def exchange_of_three(cluster: Cluster) -> Iterator[MoEDispatcher]:
    """Three workers in memory: expert e of layer l is on worker (l + e) % 3, every second one on the next too."""
    model, plain = cluster
    config = model.config
    experts = Experts(plain.checkpoint, model.dtype)
    layers = []
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts):
            experts.load(layer, expert)
        homes = [sorted({(layer + e) % 3, (layer + e + e % 2) % 3}) for e in range(config.n_routed_experts)]
        layers.append(LayerPlacement(experts=[Replicas(worker=home) for home in homes]))
    workers = [Endpoint(worker_id=f"expert-{n}", address=f"local:{n}", boot_id=str(n)) for n in range(3)]
    exchange = MoEDispatcher(lambda endpoint: LocalLink(experts), config)
    exchange.apply(Table(epoch=1, workers=workers, layers=layers))
    yield exchange
    exchange.close()


def assert_same(heard: Heard, expected: Heard, start: int = 0) -> None:
    assert heard.tokens == expected.tokens[start:], "indices, ids and checksums"
    assert torch.equal(torch.stack(heard.rows), torch.stack(expected.rows[start:]))
    assert heard.endings == expected.endings


def crowd(driver: Driver, rng: Random, count: int) -> list[Heard]:
    """Other people's requests, of all kinds."""
    return [
        driver.submit(
            prompt(rng),
            Sampling(max_tokens=rng.randint(1, 60), temperature=rng.choice([0.0, 1.0]), seed=rng.getrandbits(60)),
        )
        for _ in range(count)
    ]


MIXES = {
    "one step each": limits(max_batch_tokens=64, max_running=16, num_pages=128),
    "chunks of five": limits(max_batch_tokens=5, max_running=4, num_pages=64),
    "pages of 64": limits(page_size=64, max_batch_tokens=24, max_running=8, num_pages=32),
    "preemption": limits(max_batch_tokens=24, max_running=8, num_pages=16),
}


@pytest.mark.parametrize("mix", MIXES)
def test_in_any_company(cluster: Cluster, alone: dict[str, tuple[list[int], Heard]], mix: str) -> None:
    rng = Random(mix)
    driver = Driver(*cluster, MIXES[mix], shuffle=rng)
    ours: dict[str, Heard] = {}
    for kind, (asked, _) in alone.items():
        others = crowd(driver, rng, 3)
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
def test_replayed_from_any_cut(cluster: Cluster, alone: dict[str, tuple[list[int], Heard]], kind: str) -> None:
    asked, expected = alone[kind]
    rng = Random(kind)
    for cut in (1, *rng.sample(range(2, STEPS), 4)):
        driver = Driver(*cluster, limits(max_batch_tokens=rng.randint(4, 40), max_running=4), shuffle=rng)
        crowd(driver, rng, 1)
        rest = driver.submit(asked, KINDS[kind], emitted=expected.ids[:cut])
        driver.finish()
        assert_same(rest, expected, start=cut)


def test_over_the_exchange_with_three_workers(
    cluster: Cluster, alone: dict[str, tuple[list[int], Heard]], exchange_of_three: MoEDispatcher
) -> None:
    rng = Random(9)
    driver = Driver(cluster[0], exchange_of_three, limits(max_batch_tokens=20, max_running=6))
    ours = {kind: driver.submit(asked, KINDS[kind]) for kind, (asked, _) in alone.items()}
    crowd(driver, rng, 4)
    driver.finish()
    for kind, (_, expected) in alone.items():
        assert_same(ours[kind], expected)
    sums = exchange_of_three.stats.total()
    assert 0 < sums.ffn_choices < sums.choices
    assert sums.tokens_all_zero > 0


def test_the_requests_are_worth_comparing(alone: dict[str, tuple[list[int], Heard]]) -> None:
    """Guards the tests above: requests do differ, and answers are not one token over and over."""
    assert all(len(set(heard.ids)) > 10 for _, heard in alone.values())
    greedy, sampled = alone["greedy"][1], alone["sampled"][1]
    assert len({token.logits_checksum for heard in (greedy, sampled) for token in heard.tokens}) > STEPS
