"""Our arithmetic against transformers' LongcatFlashForCausalLM, on the same weights, through the real dispatcher.

Legend: T tokens, K choices of a token, D hidden, G gate outputs, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import torch
from caracal_kernels import GateWeights, route
from support.broken_checkpoint import edit_tensor
from support.engine_driver import Driver, limits
from support.hf_oracle import load_oracle, oracle_greedy, oracle_logits
from support.paged import Paged, local_dispatcher
from support.tiny_checkpoint import PRESETS, UNEVEN, make_checkpoint
from torch import Tensor

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.loading import open_model
from services.attention_worker.model.interfaces import MoEHandleLike
from services.attention_worker.model.model import load_model
from services.attention_worker.model.step import Step
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.reader import Checkpoint
from services.checkpoint.tensors import attention_tensors
from services.router.dispatch.moe_dispatcher import MoEDispatcher

PROMPT, NEW = 33, 64


@dataclass
class CountingDispatcher:
    """A dispatcher that counts how many FFN experts the gate chose for each token of each layer."""

    inner: MoEDispatcher
    checkpoint: Checkpoint
    ffn_choices: list[int] = field(default_factory=list)

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        c = self.checkpoint.config
        ids_TK, _, _ = route(h_TD, gate.classifier_GD, gate.bias_G, c.moe_topk, c.n_routed_experts, 1.0)
        self.ffn_choices += (ids_TK < c.n_routed_experts).sum(1).tolist()
        return self.inner.start(layer, h_TD, gate, step)


def prompt(seed: int, length: int = PROMPT) -> list[int]:
    rng = Random(seed)
    return [1, *(rng.randrange(4, 300) for _ in range(length - 1))]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("preset", PRESETS)
def test_fp32_logits_and_greedy_tokens(tmp_path: Path, preset: str) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, PRESETS[preset], seed=7))
    model = load_model(checkpoint, torch.float32, lambda done, total: None)
    ids = prompt(3)
    with local_dispatcher(checkpoint, torch.float32) as inner:
        dispatcher = CountingDispatcher(inner, checkpoint)
        paged = Paged(model, dispatcher)
        rows = list(paged.feed({0: ids})[0])
        for _ in range(NEW):
            ids.append(int(rows[-1].argmax()))
            rows += list(paged.feed({0: ids[-1:]})[0])
    oracle = load_oracle(checkpoint, torch.float32)
    expected_TV = oracle_logits(oracle, ids)
    torch.testing.assert_close(torch.stack(rows), expected_TV, rtol=0, atol=1e-4)
    assert ids[PROMPT:] == oracle_greedy(oracle, ids[:PROMPT], NEW)
    assert len(set(ids[PROMPT:])) > NEW // 4, "an answer that repeats one token proves little"
    if preset == "wide_top_k":
        assert {0, checkpoint.config.moe_topk} <= set(dispatcher.ffn_choices), (
            "tokens with no and with only FFN experts"
        )


LONG, LONG_NEW = 2048, 16


def test_a_long_prompt_in_chunks_beside_a_running_answer(tmp_path: Path) -> None:
    """Through the engine: chunks by cost, pages of a cache that holds the whole context of 131072 positions."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, seed=7, max_position_embeddings=131_072))
    opened = open_model(AttentionSettings(model=tmp_path, dtype="float32", max_itl_ms=5))
    loaded = opened.load()
    assert loaded.limits.max_model_len == 131_072
    ids = prompt(5, LONG)
    with local_dispatcher(checkpoint, torch.float32) as dispatcher:
        driver = Driver(loaded.model, dispatcher, loaded.limits)
        driver.submit(prompt(6), Sampling(max_tokens=2000, ignore_eos=True))
        driver.engine.step()
        steps = driver.engine.counters.steps
        received = driver.submit(ids, Sampling(max_tokens=LONG_NEW, ignore_eos=True, logprobs=True))
        while not received.endings:
            driver.engine.step()
        chunks = driver.engine.counters.steps - steps - LONG_NEW
    assert chunks > LONG / loaded.limits.max_batch_tokens, "smaller chunks than a step takes tokens"
    expected_TV = oracle_logits(load_oracle(checkpoint, torch.float32), ids + received.ids)[LONG - 1 : -1]
    assert received.ids == expected_TV.argmax(-1).tolist()
    expected_V = torch.log_softmax(expected_TV, -1).amax(-1)
    ours_V = torch.tensor([token.logprob for token in received.tokens])
    torch.testing.assert_close(ours_V, expected_V, rtol=0, atol=1e-4)


def test_every_norm_has_its_own_epsilon(tmp_path: Path) -> None:
    """The latents' norms use 1e-6 whatever the config says; small latents make that visible."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, UNEVEN, rms_norm_eps=1e-4))
    for name in [name for name, _ in attention_tensors(checkpoint.config) if "_a_proj" in name]:
        edit_tensor(tmp_path, name, lambda weight: weight * 1e-3)
    with local_dispatcher(checkpoint, torch.float32) as dispatcher:
        logits_TV = Paged(load_model(checkpoint, torch.float32, lambda done, total: None), dispatcher).feed(
            {0: prompt(2)}
        )[0]
    expected_TV = oracle_logits(load_oracle(checkpoint, torch.float32), prompt(2))
    torch.testing.assert_close(logits_TV, expected_TV, rtol=0, atol=1e-4)


def error(logits_TV: Tensor, exact_TV: Tensor) -> tuple[float, float]:
    """Returns (median, mean) over tokens of the root mean square error of a token's logits."""
    per_token_T = (logits_TV - exact_TV).square().mean(1).sqrt()
    return float(per_token_T.median()), float(per_token_T.mean())


@pytest.mark.parametrize("preset", PRESETS)
def test_bf16_errs_no_more_than_transformers_does(tmp_path: Path, preset: str) -> None:
    """The exact result is that of the same bf16 weights in fp32 arithmetic.

    An absolute bound would say little: a rounding error can move a token across the gate's edge to another expert, in
    either implementation, and its logits then jump. But our kernels round at most as often as transformers does (sums,
    gate * up, softmax and the combine stay in fp32), so over some hundred tokens the error must not be larger than its
    own (measured: 0.88 to 0.93 of it). The 10 % of slack are for the tokens that happen to cross an edge.
    """
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, PRESETS[preset], seed=7, dtype=torch.bfloat16))
    model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
    exact, transformers = (load_oracle(checkpoint, dtype) for dtype in (torch.float32, torch.bfloat16))
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    expected: list[Tensor] = []
    with local_dispatcher(checkpoint, torch.bfloat16) as dispatcher:
        for seed in range(4):
            ids = prompt(seed, 100)
            ours.append(Paged(model, dispatcher).feed({0: ids})[0])
            theirs.append(oracle_logits(transformers, ids))
            expected.append(oracle_logits(exact, ids))
    exact_TV = torch.cat(expected)
    our_median, our_mean = error(torch.cat(ours), exact_TV)
    their_median, their_mean = error(torch.cat(theirs), exact_TV)
    assert our_median <= 1.1 * their_median
    assert our_mean <= 1.1 * their_mean
    assert our_median < 0.05 * float(exact_TV.square().mean().sqrt()), "and it is small against the logits themselves"


def test_multi_token_prediction_and_booleans_change_nothing(tmp_path: Path) -> None:
    """`mla_scale_*` are not read, as in transformers, nor are heads of an extra predictor."""
    plain, marked = (
        Checkpoint.open(make_checkpoint(tmp_path / name, UNEVEN, **extra))  # type: ignore[arg-type]
        for name, extra in (("plain", {}), ("marked", {"mla_scale_q_lora": True, "num_nextn_predict_layers": 1}))
    )
    logits = []
    for checkpoint in (plain, marked):
        with local_dispatcher(checkpoint, torch.float32) as dispatcher:
            model = load_model(checkpoint, torch.float32, lambda done, total: None)
            logits.append(Paged(model, dispatcher).feed({0: prompt(1)})[0])
    assert plain.digest == marked.digest
    assert torch.equal(*logits)


def test_scores_of_a_prompt(tmp_path: Path) -> None:
    """What lm-eval sums up: every token's log-probability, scored in parts beside an answer."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, PRESETS["wide_top_k"], seed=7))
    model = load_model(checkpoint, torch.float32, lambda done, total: None)
    ids = prompt(5, 60)
    with local_dispatcher(checkpoint, torch.float32) as dispatcher:
        driver = Driver(model, dispatcher, limits(max_scores=13))
        beside = driver.submit(ids[:10], Sampling(max_tokens=5))
        received = driver.submit(ids, Sampling(prompt_logprobs=2, prompt_only=True))
        driver.finish()
        alone = Driver(model, dispatcher)
        whole = alone.submit(ids, Sampling(prompt_logprobs=2, prompt_only=True))
        alone.finish()
    assert len(beside.ids) == 5
    assert received.tokens == whole.tokens
    logprobs_TV = torch.log_softmax(oracle_logits(load_oracle(checkpoint, torch.float32), ids), -1)
    expected = [float(logprobs_TV[place - 1, token]) for place, token in enumerate(ids) if place]
    assert [token.logprob for token in received.scores] == pytest.approx(expected, abs=1e-3)
    assert [token.top[0][0] for token in received.scores] == logprobs_TV[:-1].argmax(-1).tolist()
