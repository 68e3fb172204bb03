"""Several ranks give the bits of one: whole logits rows, over mixed batches and prefill chunks, through the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
import torch
from caracal_kernels import GateWeights
from support.engine_driver import Driver, Received, hand_over, limits
from support.quantized_checkpoint import BLOCKS, to_fp8
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import NGRAM, PLAIN, UNEVEN, make_checkpoint
from torch import Tensor

from bench.drafts.rigged import RiggedDrafts
from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.engine.sequence import Request, Sampling
from services.attention_worker.loading import Servable, open_model
from services.attention_worker.model.interfaces import MoEHandleLike
from services.attention_worker.model.step import Step
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.tensor_parallel.followers import Followers
from services.attention_worker.tensor_parallel.rank0 import load_rank0
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import WorkerUnavailable

pytestmark = pytest.mark.processes

SIZES = limits(max_batch_tokens=24, max_running=6, num_pages=48)
# 4 heads over 2 ranks and 3 over 3; hidden, inner width and vocabulary that leave the last rank with fewer rows.
CASES = [
    pytest.param((PLAIN, 2, torch.float32), id="plain-2-fp32"),
    pytest.param((UNEVEN | {"num_attention_heads": 4}, 2, torch.bfloat16), id="uneven-2-bf16"),
    pytest.param((UNEVEN | {"num_attention_heads": 4}, 2, torch.bfloat16, "fp8"), id="uneven-2-bf16-kv-fp8"),
    pytest.param((UNEVEN | {"hidden_size": 70}, 3, torch.float32), id="uneven-3-fp32"),
    pytest.param((BLOCKS, 2, torch.bfloat16), id="fp8-2-bf16"),
    pytest.param((NGRAM | {"tie_word_embeddings": True}, 2, torch.bfloat16), id="ngram-tied-2-bf16"),
]


@dataclass(frozen=True)
class Ranks:
    """A model on one rank, the same model on several, and a dispatcher to its experts."""

    one: Servable
    several: Servable
    dispatcher: ReferenceDispatcher


@pytest.fixture(scope="module", params=CASES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    preset, size, dtype, *kv = request.param
    torch.set_num_threads(1)
    path = make_checkpoint(tmp_path_factory.mktemp("tp"), preset, seed=11, dtype=dtype, drafts=True)
    path = to_fp8(path) if preset is BLOCKS else path
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (settings(path, size, SIZES) | {"CARACAL_KV_DTYPE": "".join(kv)}).items():
            patch.setenv(name, value)
        opened = open_model(AttentionSettings.from_env())
        with Followers(size) as followers:
            several = load_rank0(opened, followers).model
            yield Ranks(opened.load().model, several, ReferenceDispatcher(opened.checkpoint, dtype))


def settings(path: Path, size: int, sizes: EngineLimits) -> dict[str, str]:
    """Returns the environment that ranks read."""
    return {
        "CARACAL_MODEL": str(path),
        "CARACAL_TP": str(size),
        "CARACAL_THREADS": "1",
        "CARACAL_KV_PAGES": str(sizes.num_pages),
        "CARACAL_PAGE_SIZE": str(sizes.page_size),
        "CARACAL_KV_HOST_GB": "0.01",
    }


def submit_mixed(driver: Driver, seed: int) -> list[Received]:
    """Submits short and long prompts while others decode, greedy and sampled."""
    rng = Random(seed)
    received: list[Received] = []
    for number in range(9):
        prompt = [rng.randrange(3, 300) for _ in range(rng.choice([1, 3, 17, 60]))]
        sampling = Sampling(max_tokens=rng.randint(2, 25), ignore_eos=True, temperature=number % 2 * 0.9, seed=number)
        received.append(driver.submit(prompt, sampling))
        for _ in range(rng.randint(0, 3)):
            driver.engine.step()
    return received


def assert_same(some: list[Received], others: list[Received]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.tokens == other.tokens, "indices, ids and checksums"
        assert torch.equal(torch.stack(one.rows), torch.stack(other.rows))
        assert one.endings == other.endings


def test_logits_are_those_of_one_rank(ranks: Ranks) -> None:
    received = []
    for model in (ranks.one, ranks.several):
        driver = Driver(model, ranks.dispatcher, SIZES)
        received.append(submit_mixed(driver, 5))
        driver.finish()
        assert driver.engine.counters.steps < driver.engine.counters.model_tokens / 3, "batches, not rows"
    assert_same(*received)
    assert len({token.logits_checksum for one in received[0] for token in one.tokens}) > 50


def test_ranks_draft_together(ranks: Ranks) -> None:
    """What they draft is wrong mostly, and then right mostly; what comes out is what one rank gives without drafts."""
    plain = Driver(ranks.one, ranks.dispatcher, SIZES)
    expected = submit_mixed(plain, 7)
    plain.finish()
    known = [[*received.prompt, *received.ids] for received in expected]
    for model in (ranks.several, RiggedDrafts(ranks.several, known, 0.8)):
        driver = Driver(model, ranks.dispatcher, replace(SIZES, drafts=3))
        received = submit_mixed(driver, 7)
        driver.finish()
        for one, other in zip(received, expected, strict=True):
            assert (one.tokens, one.endings) == (other.tokens, other.endings)
        assert driver.drafted.tokens > 50
    assert sum(driver.drafted.accepted) > driver.drafted.tokens / 3


def test_pages_are_shared_on_every_rank(ranks: Ranks) -> None:
    rng = Random(3)
    beginning = [rng.randrange(3, 300) for _ in range(50)]
    asked = [[*beginning[: rng.randint(20, 50)], *(rng.randrange(3, 300) for _ in range(5))] for _ in range(8)]
    received: list[list[Received]] = []
    none = limits(max_batch_tokens=24, max_running=6, num_pages=48, prefix_cache=False)
    few = limits(max_batch_tokens=24, max_running=3, num_pages=10, max_len=160, host_pages=20)
    for model, sizes in ((ranks.one, none), (ranks.several, few)):
        driver = Driver(model, ranks.dispatcher, sizes)
        received.append([])
        for number, prompt in enumerate(asked):
            received[-1].append(driver.submit(prompt, Sampling(max_tokens=9, ignore_eos=True)))
            driver.submit([number + 3] * 120, Sampling(max_tokens=1))  # takes the place of pages that are not in use
            driver.finish()
    assert sum(one.cached for one in received[1]) >= 4 * 16
    assert driver.engine.cache.pages.host.loads > 0
    for one, other in zip(*received, strict=True):
        assert [(t.id, t.logits_checksum) for t in one.tokens] == [(t.id, t.logits_checksum) for t in other.tokens]
        assert torch.equal(torch.stack(one.rows), torch.stack(other.rows))


@pytest.mark.parametrize("backwards", [False, True])
def test_pages_go_from_one_rank_to_several_and_back(ranks: Ranks, backwards: bool) -> None:
    prompt, sampling = [*range(3, 103)], Sampling(max_tokens=9, ignore_eos=True)
    models = (ranks.several, ranks.one) if backwards else (ranks.one, ranks.several)
    sizes = SIZES, replace(SIZES, drafts=3)  # a draft has a cache of its own beside the others, which moves with them
    source, successor = (Driver(*each) for each in zip(models, [ranks.dispatcher] * 2, sizes, strict=True))
    first = source.submit(prompt, sampling)
    source.finish()
    names = source.engine.names(Request(request_id="r", prompt_ids=tuple(prompt)))
    assert names is not None
    assert hand_over(source.engine, successor.engine, names.of(prompt, len(prompt))) == len(prompt) // 16
    second = successor.submit(prompt, sampling)
    successor.finish()
    assert second.cached == len(prompt) // 16 * 16
    assert [(t.id, t.logits_checksum) for t in first.tokens] == [(t.id, t.logits_checksum) for t in second.tokens]


@dataclass(frozen=True)
class FailingHandle:
    """A MoE output that does not arrive."""

    def finish(self, residual_TD: Tensor) -> Tensor:
        raise WorkerUnavailable("expert-0 is gone")


class FailingDispatcher:
    """Fails in layer 1 of some steps, in `start` or in `finish`."""

    def __init__(self, inner: ReferenceDispatcher, bad_steps: dict[int, str]) -> None:
        self._inner, self._bad_steps = inner, bad_steps

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        where = self._bad_steps.get(step.number, "") if layer == 1 else ""
        if where == "start":
            raise WorkerUnavailable("expert-0 is gone")
        return FailingHandle() if where == "finish" else self._inner.start(layer, h_TD, gate, step)


def test_a_step_that_fails_on_rank_0_keeps_the_ranks_in_step(ranks: Ranks) -> None:
    dispatcher = FailingDispatcher(ranks.dispatcher, {3: "finish", 6: "start"})
    driver = Driver(ranks.several, dispatcher, SIZES)
    lost = [driver.submit([5, 6, 7 + number], Sampling(max_tokens=9, ignore_eos=True)) for number in range(3)]
    for _ in range(3):
        driver.engine.step()
    lost.append(driver.submit([9] * 30, Sampling(max_tokens=9, ignore_eos=True)))
    for _ in range(3):
        driver.engine.step()
    assert [(one.endings[0].reason, one.endings[0].message) for one in lost] == [
        ("unavailable", "expert-0 is gone")
    ] * 4
    assert driver.engine.counters.failed_steps == 2
    after = submit_mixed(driver, 6)
    driver.finish()
    alone = Driver(ranks.one, ranks.dispatcher, SIZES)
    expected = submit_mixed(alone, 6)
    alone.finish()
    assert_same(after, expected)


def test_an_error_on_rank_0_alone_ends_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path / "model")
    for name, value in settings(path, 2, SIZES).items():
        monkeypatch.setenv(name, value)
    checkpoint = Checkpoint.open(path)
    with Followers(2) as followers:
        model = load_rank0(open_model(AttentionSettings.from_env()), followers).model
        driver = Driver(model, ReferenceDispatcher(checkpoint, torch.float32), SIZES)
        driver.engine.cache.tensors[1].resize_(0)  # rank 0's second attention has no cache to write to
        received = driver.submit([5, 6, 7], Sampling(max_tokens=9))
        driver.finish()
        assert received.endings[0].reason == "unavailable", "another worker may continue it"
        assert "the ranks are out of step" in received.endings[0].message
        again = driver.submit([5, 6, 7], Sampling(max_tokens=9))
        driver.finish()
        assert again.endings[0].reason == "unavailable"
