"""Layers that native code runs: the bits of every row of logits and every count are those of Python's loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.expert_workers import Worker, load_everything, place, workers
from support.native_layers import Sides, both_sides, steps
from support.tiny_checkpoint import NGRAM, PLAIN, UNEVEN, WIDE_TOP_K, make_checkpoint

from services.attention_worker.model import native_stack
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.stats import NATIVE_COUNTS, NATIVE_SECONDS

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(bool(native_stack.unavailable()), reason="layers cannot run natively here"),
]

BF16 = torch.bfloat16
SPARSE = PLAIN | {
    "max_position_embeddings": 2048,
    "streaming_sparse_attention": {"sink_size": 128, "recent_size": 128, "sparsity": 0.5, "layer_type": "0101"},
}
MODELS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "fp32": (PLAIN, torch.float32),
    "bf16": (PLAIN, BF16),
    "uneven": (UNEVEN, BF16),
    "tokens with zero experts only": (WIDE_TOP_K, BF16),
    "n-grams": (NGRAM, BF16),
    "zero experts dropped": (WIDE_TOP_K | {"zero_expert_type": "drop"}, BF16),
    "normalised weights": (PLAIN | {"norm_topk_prob": True}, torch.float32),
    "sparse attention": (SPARSE, BF16),
}
# 512 FFN and 256 zero experts, 12 of them chosen, as in LongCat-Flash; 8 of its 28 layers, and all widths are tiny.
REAL = PLAIN | {
    "hidden_size": 32,
    "num_layers": 8,
    "num_hidden_layers": 16,
    "num_attention_heads": 2,
    "ffn_hidden_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_topk": 12,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "expert_ffn_hidden_size": 4,
    "routed_scaling_factor": 6.0,
}
Placement = Callable[[int, int], list[int]]


def open_model(path: Path, preset: dict[str, Any], dtype: torch.dtype, **overrides: Any) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(path, preset, dtype=dtype, **overrides))


def compare(checkpoint: Checkpoint, sides: Sides, count: int, sequences: int, longest: int = 17) -> None:
    for number, chunks in enumerate(steps(checkpoint.config.vocab_size, sequences, count, longest=longest)):
        assert torch.equal(sides.native.feed(chunks), sides.python.feed(chunks)), number
    assert sides.native.counts() == sides.python.counts()
    assert sides.native.calls.calls == sides.python.calls.calls > 0
    assert sides.native.native_layers == count * checkpoint.config.num_layers
    assert sides.python.native_layers == 0
    for side in (sides.native, sides.python):
        total = side.dispatcher.stats.total()
        assert 0 < total.exposed_s <= total.round_trip_s
        assert side.calls.over_grpc == 0


@pytest.mark.parametrize("name", MODELS)
def test_bits_and_counts_of_every_kind_of_model(tmp_path: Path, name: str) -> None:
    preset, dtype = MODELS[name]
    checkpoint = open_model(tmp_path, preset, dtype)
    longest = 150 if name == "sparse attention" else 17  # so that rows leave keys out
    with workers(checkpoint, dtype, 3) as three, both_sides(checkpoint, dtype, capacity=2048) as sides:
        for worker in three:
            load_everything(worker.experts)
            worker.service.direct = True
        sides.apply(place(1, checkpoint, [w.endpoint for w in three], lambda layer, expert: [expert % 3]))
        compare(checkpoint, sides, 12, 3, longest)


@pytest.mark.parametrize(
    "placement",
    [lambda layer, expert: [0], lambda layer, expert: [0, 1, 2], lambda layer, expert: [(layer + expert) % 3, 2]],
    ids=["one worker", "every expert on every worker", "some replicas"],
)
def test_bits_and_counts_on_any_placement(checkpoint: Checkpoint, placement: Placement) -> None:
    with workers(checkpoint, BF16, 3) as three, both_sides(checkpoint, BF16) as sides:
        for worker in three:
            load_everything(worker.experts)
            worker.service.direct = True
        sides.apply(
            place(1, checkpoint, [w.endpoint for w in three], lambda layer, expert: sorted({*placement(layer, expert)}))
        )
        compare(checkpoint, sides, 12, 3)


def test_bits_and_counts_of_the_real_shape_at_tiny_widths(tmp_path: Path) -> None:
    checkpoint = open_model(tmp_path, REAL, BF16)
    with workers(checkpoint, BF16, 3) as three, both_sides(checkpoint, BF16, sequences=4) as sides:
        for number, worker in enumerate(three):
            worker.service.direct = True
            worker.service.native = worker.service.new_native(worker.state, worker.batcher, direct=True)
            for layer in range(checkpoint.config.num_layers):
                for expert in range(number, checkpoint.config.n_routed_experts, 3):
                    worker.experts.load(layer, expert)
        sides.apply(place(1, checkpoint, [w.endpoint for w in three], lambda layer, expert: [expert % 3]))
        compare(checkpoint, sides, 8, 4)


@pytest.mark.parametrize("name", ["bf16", "n-grams"])
def test_a_step_that_is_observed_has_the_same_bits_after_each_layer(tmp_path: Path, name: str) -> None:
    preset, dtype = MODELS[name]
    checkpoint = open_model(tmp_path, preset, dtype)
    layers = checkpoint.config.num_layers
    with workers(checkpoint, dtype, 2) as two, both_sides(checkpoint, dtype) as sides:
        for worker in two:
            load_everything(worker.experts)
            worker.service.direct = True
        sides.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        for number, chunks in enumerate(steps(checkpoint.config.vocab_size, 3, 4)):
            (rows, logits), (expected, python) = sides.native.observed(chunks), sides.python.observed(chunks)
            assert sorted(rows) == sorted(expected) == list(range(layers + 1)), number
            assert all(torch.equal(rows[layer], expected[layer]) for layer in rows), number
            assert torch.equal(logits, python)
        for chunks in steps(checkpoint.config.vocab_size, 3, 4, seed=1):  # what is not observed goes on after it
            assert torch.equal(sides.native.feed(chunks), sides.python.feed(chunks))
        assert sides.native.native_layers == 8 * layers
        assert sides.native.counts() == sides.python.counts()


def test_steps_that_need_python_run_layer_by_layer(checkpoint: Checkpoint) -> None:
    """A worker without native sessions, more rows than a session takes, and no overlap."""
    with workers(checkpoint, BF16, 2) as two:
        for worker in two:
            load_everything(worker.experts)
        table = place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2])

        def natively(chunks: dict[int, list[int]], **options: Any) -> int:
            with both_sides(checkpoint, BF16, **options) as sides:
                sides.apply(table)
                assert torch.equal(sides.native.feed(chunks), sides.python.feed(chunks))
                assert sides.native.counts() == sides.python.counts()
                return sides.native.native_layers

        assert natively({0: [3] * 9}) == checkpoint.config.num_layers
        assert natively({0: [3] * 9}, overlap=False) == 0
        limited(two, 8)
        assert natively({0: [3] * 9}) == 0
        assert natively({0: [3] * 8}) == checkpoint.config.num_layers
        two[1].service.native = None
        assert natively({0: [3]}) == 0


def limited(running: list[Worker], rows: int) -> None:
    for worker in running:
        assert worker.service.native is not None
        worker.service.native.max_rows = rows


def test_the_counters_have_one_order() -> None:
    from services.attention_worker import _native

    assert tuple(_native.COUNTS) == NATIVE_COUNTS
    assert tuple(_native.SECONDS) == NATIVE_SECONDS
