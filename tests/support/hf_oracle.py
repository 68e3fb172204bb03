"""transformers' LongCat-Flash with a checkpoint's tensors: the reference for our arithmetic.

Weights are set here because transformers' model expects unused rows for the zero experts in one fused tensor, and its
loader makes none.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from support.op_inputs import visible_keys

from services.checkpoint.reader import Checkpoint, load_expert
from services.checkpoint.tensors import attention_tensors

if TYPE_CHECKING:
    from transformers import LongcatFlashForCausalLM

FP32 = ("classifier.weight", "e_score_correction_bias")


def load_oracle(checkpoint: Checkpoint, dtype: torch.dtype) -> LongcatFlashForCausalLM:
    """Returns the model in `dtype`, its router in fp32 as `from_pretrained` keeps it."""
    from transformers import (
        LongcatFlashConfig,
        LongcatFlashForCausalLM,
    )  # takes seconds, of every run that collects it

    raw = json.loads((checkpoint.path / "config.json").read_text())
    model = LongcatFlashForCausalLM(LongcatFlashConfig(**raw | {"attn_implementation": "eager"}))
    model.eval()  # type: ignore[no-untyped-call]  # of torch
    config, ours = model.config, checkpoint.config
    state = {
        name: checkpoint.tensor(name, torch.float32 if name.endswith(FP32) else dtype)
        for name, _ in attention_tensors(ours)
    }
    for layer in range(ours.num_layers):
        experts = [load_expert(checkpoint, layer, expert, dtype) for expert in range(ours.n_routed_experts)]
        gate_up = torch.stack([expert.gate_up_2FD for expert in experts])
        unused = gate_up.new_zeros((config.zero_expert_num, *gate_up.shape[1:]))
        prefix = f"model.layers.{layer}.mlp.experts."
        state[f"{prefix}gate_up_proj"] = torch.cat([gate_up, unused])
        state[f"{prefix}down_proj"] = torch.stack([expert.down_DF for expert in experts])
    model.load_state_dict(state, strict=True, assign=True)
    if ours.streaming is not None:
        for sublayer, sparse in enumerate(ours.streaming.sparse):
            if sparse:
                blocks = ours.streaming.sink_blocks, ours.streaming.recent_blocks
                attention = model.model.layers[sublayer // 2].self_attn[sublayer % 2]
                attention.register_forward_pre_hook(partial(_mask_blocks, blocks), with_kwargs=True)
    return model


def _mask_blocks(
    blocks: tuple[int, int], module: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hides from each row what streaming-sparse attention leaves out, in the mask that the module is given."""
    mask = kwargs["attention_mask"].clone()
    for row in range(mask.shape[-2]):
        hidden = torch.ones(mask.shape[-1], dtype=torch.bool)
        hidden[visible_keys(row, *blocks)] = False
        mask[..., row, hidden] = torch.finfo(mask.dtype).min
    return args, kwargs | {"attention_mask": mask}


@torch.inference_mode()
def oracle_logits(model: LongcatFlashForCausalLM, ids: list[int]) -> torch.Tensor:
    """Returns fp32 logits [T, V] of one sequence in one forward pass."""
    logits_TV: torch.Tensor = model(torch.tensor([ids])).logits[0].float()
    return logits_TV


@torch.inference_mode()
def oracle_greedy(model: LongcatFlashForCausalLM, ids: list[int], count: int) -> list[int]:
    """Returns the next `count` ids of `transformers.generate`."""
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    new: list[int] = out[0, len(ids) :].tolist()
    return new
