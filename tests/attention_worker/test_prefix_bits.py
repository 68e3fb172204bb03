"""Logits are the same, bit for bit, whether a prompt's pages are computed or cached: cold, warm, and half evicted.

Real models on random checkpoints: dense and sparse attention, n-grams, and the real shape in tiny widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from support.engine_driver import Driver, Received, hand_over, limits
from support.tiny_checkpoint import NGRAM, PLAIN, WIDE_TOP_K, make_checkpoint

from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.engine.sequence import Request, Sampling
from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher

# Rows from 384 on do not read all positions before them.
STREAMING = {"sink_size": 128, "recent_size": 128, "sparsity": 0.5, "layer_type": "0110"}
SPARSE = WIDE_TOP_K | {"streaming_sparse_attention": STREAMING}
REAL_SHAPE: dict[str, Any] = PLAIN | {
    "num_layers": 28,
    "num_hidden_layers": 56,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "moe_topk": 12,
    "hidden_size": 32,
    "ffn_hidden_size": 32,
    "expert_ffn_hidden_size": 16,
}
CASES = [
    pytest.param((WIDE_TOP_K, torch.float32, 100), id="fp32"),
    pytest.param((WIDE_TOP_K, torch.bfloat16, 100), id="bf16"),
    pytest.param((NGRAM, torch.bfloat16, 100), id="ngram-bf16"),
    pytest.param((SPARSE, torch.bfloat16, 420), id="sparse-bf16"),
    pytest.param((REAL_SHAPE, torch.bfloat16, 70), id="real-shape-bf16"),
]
ANSWER = 20
KINDS = {
    "greedy": Sampling(max_tokens=ANSWER, ignore_eos=True),
    "sampled": Sampling(max_tokens=ANSWER, ignore_eos=True, temperature=0.9, top_p=0.95, seed=-77),
    "penalised": Sampling(max_tokens=ANSWER, temperature=1.1, seed=2**62, repetition_penalty=1.1, ignore_eos=True),
}
PAGE = 16


@dataclass(frozen=True)
class Served:
    """A model, its experts, and the answers without a cache: of the prompt, by kind, and of the next turn."""

    model: Model
    dispatcher: MoEDispatcher
    prompt: list[int]
    expected: dict[str, Received]
    turn: list[int]
    next_turn: Received

    def driver(self, sizes: EngineLimits | None = None, shuffle: Random | None = None) -> Driver:
        return Driver(self.model, self.dispatcher, sizes or limits(num_pages=128, max_len=512), shuffle=shuffle)


def ids(rng: Random, length: int) -> list[int]:
    return [2 if rng.random() < 0.1 else rng.randrange(3, 300) for _ in range(length)]  # at a 2 n-grams end


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    torch.set_num_threads(1)
    preset, dtype, length = request.param
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("prefix"), preset, seed=5))
    config = checkpoint.config
    experts = Experts(checkpoint, dtype)
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts):
            experts.load(layer, expert)
    dispatcher = MoEDispatcher(lambda _: LocalLink(experts), config)
    layers = [layer_of([[0]] * config.n_routed_experts)] * config.num_layers
    here = Endpoint(worker_id="local", address="local", boot_id="local")
    dispatcher.apply(Table(epoch=1, workers=[here], layers=layers))
    model = load_model(checkpoint, dtype, lambda done, total: None)
    prompt, off = ids(Random(1), length), limits(num_pages=128, max_len=512, prefix_cache=False)

    def alone(asked: list[int], sampling: Sampling) -> Received:
        driver = Driver(model, dispatcher, off)
        received = driver.submit(asked, sampling)
        driver.finish()
        return received

    expected = {kind: alone(prompt, sampling) for kind, sampling in KINDS.items()}
    turn = [*prompt, *expected["sampled"].ids, *ids(Random(2), 11)]
    yield Served(model, dispatcher, prompt, expected, turn, alone(turn, KINDS["sampled"]))
    dispatcher.close()


def assert_same(received: Received, expected: Received, start: int = 0) -> None:
    assert torch.equal(torch.stack(received.rows), torch.stack(expected.rows[start:]))
    found, wanted = ([(t.index, t.id, t.logits_checksum) for t in one.tokens] for one in (received, expected))
    assert found == wanted[start:]
    assert received.endings == expected.endings


def test_cold_then_warm(served: Served) -> None:
    driver = served.driver()
    whole = (len(served.prompt) - 1) // PAGE * PAGE
    for round_ in range(2):
        for kind, sampling in KINDS.items():
            received = driver.submit(served.prompt, sampling)
            driver.finish()
            assert received.cached == (0 if (round_, kind) == (0, "greedy") else whole)
            assert_same(received, served.expected[kind])


def test_the_next_turn_finds_the_answer(served: Served) -> None:
    driver = served.driver()
    driver.submit(served.prompt, KINDS["sampled"])
    driver.finish()
    received = driver.submit(served.turn, KINDS["sampled"])
    driver.finish()
    assert received.cached == (len(served.prompt) + ANSWER - 1) // PAGE * PAGE > len(served.prompt)
    assert_same(received, served.next_turn)


def test_half_evicted(served: Served) -> None:
    pages = -(-(len(served.prompt) + ANSWER) // PAGE) + 1
    driver = served.driver(limits(num_pages=pages, max_len=512))
    cached = []
    for other in (0, pages // 2 + 2, pages - 1):
        driver.submit(served.prompt, KINDS["greedy"])
        driver.finish()
        if other:
            driver.submit(ids(Random(other), other * PAGE - 1), Sampling(max_tokens=1))
            driver.finish()
        received = driver.submit(served.prompt, KINDS["sampled"])
        driver.finish()
        cached.append(received.cached)
        assert_same(received, served.expected["sampled"])
    assert cached[0] > cached[1] > cached[2] >= 0


def test_back_from_host_memory(served: Served) -> None:
    pages = -(-(len(served.prompt) + ANSWER) // PAGE) + 1
    driver = served.driver(limits(num_pages=pages, max_len=512, host_pages=2 * pages))
    for _ in range(2):
        for kind, sampling in KINDS.items():
            received = driver.submit(served.prompt, sampling)
            driver.submit(ids(Random(kind), (pages - 1) * PAGE - 1), Sampling(max_tokens=1))
            driver.finish()
            assert_same(received, served.expected[kind])
    assert received.cached == (len(served.prompt) - 1) // PAGE * PAGE
    assert driver.engine.cache.pages.host.loads > 0


@pytest.mark.parametrize("tiers", [False, True])
def test_pages_of_another_worker(served: Served, tiers: bool) -> None:
    pages = -(-(len(served.prompt) + ANSWER) // PAGE) + 1
    sizes = limits(num_pages=pages, max_len=512, host_pages=2 * pages) if tiers else None
    source, successor = served.driver(sizes), served.driver()
    for driver in (source, successor):
        asked = served.prompt if driver is source else ids(Random(6), 3 * PAGE)
        driver.submit(asked, KINDS["sampled"])
        driver.finish()
    if tiers:
        source.submit(ids(Random(8), (pages - 1) * PAGE - 1), Sampling(max_tokens=1))
        source.finish()
    asked = [*served.prompt, *served.expected["sampled"].ids]
    names = source.engine.names(Request(request_id="r", prompt_ids=tuple(asked)))
    assert names is not None
    whole = (len(asked) - 1) // PAGE
    assert hand_over(source.engine, successor.engine, names.of(asked, len(asked))) == whole
    assert not successor.engine.cache.pages.host.take_received()
    cut = ANSWER - 3
    rest = successor.submit(served.prompt, KINDS["sampled"], emitted=served.expected["sampled"].ids[:cut])
    successor.finish()
    assert_same(rest, served.expected["sampled"], start=cut)
    assert successor.engine.scheduler.prefix_hits == (len(served.prompt) + cut - 1) // PAGE * PAGE
    received = successor.submit(served.turn, KINDS["sampled"])
    successor.finish()
    assert received.cached == whole * PAGE
    assert_same(received, served.next_turn)


@pytest.mark.parametrize("mix", ["chunks", "preemption", "second tier"])
def test_beside_others_that_begin_alike(served: Served, mix: str) -> None:
    rng, prompt = Random(mix), served.prompt
    pages = 160 if mix == "chunks" else -(-(len(prompt) + 39) // PAGE) + 1
    most, host = 7 if mix == "chunks" else 24, 12 if mix == "second tier" else 0
    sizes = limits(num_pages=pages, max_batch_tokens=most, max_running=6, max_len=512, host_pages=host)
    driver = served.driver(sizes, shuffle=rng)
    ours: dict[str, list[Received]] = {kind: [] for kind in KINDS}
    for _ in range(3):
        for kind, sampling in KINDS.items():
            cut = rng.randint(1, len(prompt))
            driver.submit([*prompt[:cut], *ids(rng, 9)], Sampling(max_tokens=rng.randint(1, 30), ignore_eos=True))
            ours[kind].append(driver.submit(prompt, sampling))
            gone = driver.submit(prompt, sampling)
            for _ in range(rng.randint(1, 9)):
                driver.engine.step()
            if not gone.endings:
                driver.cancel(gone)
    driver.finish()
    assert (driver.engine.scheduler.preemptions > 0) == (mix != "chunks")
    assert (driver.engine.cache.pages.host.loads > 0) == (mix == "second tier")
    assert driver.engine.scheduler.prefix_hits > 0
    for kind, all_of_it in ours.items():
        for received in all_of_it:
            assert_same(received, served.expected[kind])


def test_a_replay_on_a_worker_that_has_the_prompt(served: Served) -> None:
    driver = served.driver()
    driver.submit([*served.prompt, 5, 6, 7], Sampling(max_tokens=2))
    driver.finish()
    for cut in (1, ANSWER - 1):
        expected = served.expected["penalised"]
        rest = driver.submit(served.prompt, KINDS["penalised"], emitted=expected.ids[:cut])
        driver.finish()
        assert rest.cached >= (len(served.prompt) - 1) // PAGE * PAGE
        assert_same(rest, expected, start=cut)
