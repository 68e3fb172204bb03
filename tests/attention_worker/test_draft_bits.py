"""Drafts change no bit of the real model: ids, checksums and endings, over Python and native layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from support.engine_driver import Driver, Received, limits
from support.expert_workers import connecting, load_everything, open_dispatcher, place, workers
from support.tiny_checkpoint import NGRAM, PLAIN, WIDE_TOP_K, make_checkpoint

from bench.drafts.rigged import RiggedDrafts
from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model import native_stack
from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.moe_dispatcher import MoEDispatcher

BF16 = torch.bfloat16
# The real model's experts, in tiny widths; with all of its layers in tests/cluster/test_real_shape.py.
REAL = PLAIN | {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "ffn_hidden_size": 16,
    "moe_topk": 12,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "expert_ffn_hidden_size": 4,
    "max_position_embeddings": 512,
}
SPARSE = PLAIN | {
    "streaming_sparse_attention": {"sink_size": 128, "recent_size": 128, "sparsity": 0.5, "layer_type": "0101"}
}
MODELS = {"plain": WIDE_TOP_K, "n-grams": NGRAM, "sparse": SPARSE, "512 experts": REAL}
LINKS = ("grpc", "native")
SIZES = limits(num_pages=64, max_batch_tokens=24, max_running=6)


def submit(driver: Driver, seed: int, count: int = 6) -> list[Received]:
    rng = Random(seed)
    received = []
    for number in range(count):
        asked = Sampling(
            max_tokens=rng.randint(5, 30),
            ignore_eos=True,
            temperature=number % 2 * 0.9,
            seed=number,
            frequency_penalty=0.4 * (number % 3 == 0),
            logprobs=number == 2,
            top_logprobs=3,
        )
        length = rng.choice([1, 17, 60])
        received.append(driver.submit([rng.randrange(2, 300) for _ in range(length)], asked))
        driver.engine.step()
    driver.finish()
    return received


def outcome(received: list[Received]) -> list[Any]:
    return [(one.tokens, one.endings) for one in received]


@contextmanager
def opened(path: Path, preset: dict[str, Any], link: str) -> Iterator[tuple[Model, MoEDispatcher]]:
    """The model, and its experts on two workers."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(make_checkpoint(path, preset, seed=3, dtype=BF16, drafts=True))
    model = load_model(checkpoint, BF16, lambda done, total: None, drafts=True)
    with workers(checkpoint, BF16, 2) as running:
        for worker in running:
            load_everything(worker.experts)
        ends = [worker.endpoint for worker in running]
        with open_dispatcher(checkpoint, connecting(link, checkpoint, BF16)) as dispatcher:
            dispatcher.apply(place(1, checkpoint, ends, lambda layer, expert: [expert % 2]))
            yield model, dispatcher


@pytest.mark.parametrize(("name", "link"), [*((name, "native") for name in MODELS), ("plain", "grpc")])
def test_answers_are_those_without_drafts(name: str, link: str, tmp_path: Path) -> None:
    """Of drafts that are wrong mostly, as those of random weights are, and of such that are right mostly."""
    if link == "native" and native_stack.unavailable():
        pytest.skip("layers cannot run natively here")
    with opened(tmp_path, MODELS[name], link) as (model, dispatcher):
        plain = Driver(model, dispatcher, SIZES)
        expected = submit(plain, 4)
        known = [[*received.prompt, *received.ids] for received in expected]
        for drafts, rate in ((1, None), (2, 0.6), (3, 0.9)):
            drafting = model if rate is None else RiggedDrafts(model, known, rate)
            driver = Driver(drafting, dispatcher, replace(SIZES, drafts=drafts))
            assert outcome(submit(driver, 4)) == outcome(expected)
            accepted = sum(driver.drafted.accepted) / driver.drafted.tokens
            assert accepted < 0.2 if rate is None else accepted > rate / 2
        assert plain.engine.counters.steps > driver.engine.counters.steps
        assert (dispatcher.stats.native_layer_calls > 0) == (link == "native")


def test_preempted_answers_are_drafted_again(tmp_path: Path) -> None:
    with opened(tmp_path, WIDE_TOP_K, "grpc") as (model, dispatcher):
        plain = Driver(model, dispatcher, SIZES)
        expected = submit(plain, 5, 8)
        known = [[*received.prompt, *received.ids] for received in expected]
        sizes = limits(num_pages=9, max_batch_tokens=24, max_running=6, max_len=120, drafts=3)
        driver = Driver(RiggedDrafts(model, known, 0.8), dispatcher, sizes, shuffle=Random(1))
        assert outcome(submit(driver, 5, 8)) == outcome(expected)
        assert driver.engine.scheduler.preemptions > 0
        assert sum(driver.drafted.accepted) > 20
