"""The exported checkpoint, read by transformers, gives the logits of the trained model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.data.batches import batch
from training.data.dialogues import dialogues
from training.export.read import load_exported

if TYPE_CHECKING:
    from transformers import LongcatFlashConfig

MODEL = Path(__file__).parents[2] / "models" / "caracal-tiny"


def fused(tensors: dict[str, Tensor], config: LongcatFlashConfig) -> dict[str, Tensor]:
    """Returns the experts stacked as in transformers, whose gate_up_proj also has unused rows for the zero experts."""
    tensors = dict(tensors)
    for layer in range(config.num_layers):
        stem = f"model.layers.{layer}.mlp.experts."
        parts = {
            kind: [tensors.pop(f"{stem}{expert}.{kind}_proj.weight") for expert in range(config.n_routed_experts)]
            for kind in ("gate", "up", "down")
        }
        gate_up = torch.cat([torch.stack(parts["gate"]), torch.stack(parts["up"])], 1)
        unused = gate_up.new_zeros(config.zero_expert_num, *gate_up.shape[1:])
        tensors[f"{stem}gate_up_proj"] = torch.cat([gate_up, unused])
        tensors[f"{stem}down_proj"] = torch.stack(parts["down"])
    return tensors


def test_logits_equal_those_of_transformers() -> None:
    from transformers import LongcatFlashConfig, LongcatFlashForCausalLM  # takes seconds, of every run that collects it

    config = LongcatFlashConfig(**json.loads((MODEL / "config.json").read_text()))
    reference = LongcatFlashForCausalLM(config)
    reference.float()  # type: ignore[no-untyped-call]  # of transformers
    reference.eval()  # type: ignore[no-untyped-call]  # of torch
    tensors: dict[str, Tensor] = {}
    for file in sorted(MODEL.glob("*.safetensors")):
        tensors |= load_file(file)
    left_out = re.compile("|".join(reference._keys_to_ignore_on_load_unexpected))
    reference.load_state_dict(fused({n: v for n, v in tensors.items() if not left_out.match(n)}, config))
    model, tokenizer = load_exported(MODEL, torch.float32)
    for number in range(3):
        step = batch(tokenizer, dialogues(15, number, 1), groups=1)
        with torch.no_grad():
            logits_TV = model(step.ids_T, step.groups, torch.arange(len(step.ids_T)))
            expected_TV = reference(step.ids_T[None]).logits[0]
        torch.testing.assert_close(logits_TV, expected_TV, atol=1e-4, rtol=0)


def test_files_are_small_sharded_finite_and_complete() -> None:
    files = sorted(MODEL.glob("*.safetensors"))
    index = json.loads((MODEL / "model.safetensors.index.json").read_text())
    assert len(files) >= 2
    assert sum(file.stat().st_size for file in files) <= 10_000_000
    for file in files:
        tensors = load_file(file)
        assert {name for name, shard in index["weight_map"].items() if shard == file.name} == set(tensors)
        assert all(bool(value.isfinite().all()) for value in tensors.values())
        routers = {name: value.dtype for name, value in tensors.items() if ".mlp.router." in name}
        assert set(routers.values()) <= {torch.float32}
