"""The count of floating-point operations, against PyTorch's own of the products that were made."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.model.config import ModelConfig
from training.model.flops import chosen_experts, forward_flops, step_flops
from training.model.longcat_flash import LongcatFlash

SIZES = ModelConfig(vocab_size=320, num_layers=2, hidden_size=32, ffn_hidden_size=48, expert_ffn_hidden_size=16)


def test_a_step_counts_what_pytorch_counts() -> None:
    """But for attention: PyTorch counts the masked half as well, and what its backward pass computes again."""
    model = LongcatFlash(SIZES)
    model.initialise(1, lambda name, weight: 0.2)
    groups, wanted_A = [(3, 10), (2, 17)], torch.tensor([3, 8, 40])
    ids_T = torch.arange(64) % 300
    model(ids_T, groups, wanted_A)
    chosen = chosen_experts(model)
    ours_forward, ours = forward_flops(model, groups, 3, chosen), step_flops(model, groups, 3, chosen)
    with FlopCounterMode(display=False) as counter:
        loss = model(ids_T, groups, wanted_A).sum()
        forward = products(counter)
        loss.backward()
    reads = sum(rows * length * (length + 1) // 2 for rows, length in groups)
    attention = 2 * reads * 4 * 4 * (16 + 16 + 32)  # 4 attentions of 4 heads
    assert ours_forward - attention == forward > 0
    assert ours - 3 * attention == products(counter)


def products(counter: FlopCounterMode) -> int:
    counts = counter.get_flop_counts()["Global"]
    return sum(count for op, count in counts.items() if "attention" not in str(op))


def test_a_token_of_zero_experts_costs_less() -> None:
    model = LongcatFlash(SIZES)
    model.initialise(1)
    counts = []
    for bias in (-10.0, 10.0):
        for moe in model.mixtures():
            moe.router.e_score_correction_bias[: SIZES.n_routed_experts] = bias
        model(torch.arange(20), [(1, 20)], torch.tensor([3]))
        counts.append(forward_flops(model, [(1, 20)], 1, chosen_experts(model)))
    expert = 2 * 3 * SIZES.hidden_size * SIZES.expert_ffn_hidden_size
    # All 6 choices are FFN experts with the bias, and none without: there are 8 zero experts.
    assert counts[1] - counts[0] == 20 * 6 * SIZES.num_layers * expert
