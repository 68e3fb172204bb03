"""The small model that experiments train: minutes on one core, in the proportions of the built-in one."""

from __future__ import annotations

from training.model.config import ModelConfig
from training.recipe import Recipe, TrunkRecipe


def proxy(steps: int, scale: int, seed: int = 1) -> Recipe:
    """Returns the recipe at a scale: `scale` times as wide, `scale` times as many steps. Rates end at zero."""
    width = 64 * scale
    model = ModelConfig(
        vocab_size=512,
        hidden_size=width,
        num_layers=2,
        num_attention_heads=2 * scale,
        q_lora_rank=width // 2,
        kv_lora_rank=width // 4,
        ffn_hidden_size=2 * width,
        expert_ffn_hidden_size=width // 2,
    )
    total = steps * scale
    warmup = max(1, total // 15)
    return Recipe(
        seed=seed,
        model=model,
        trunk=TrunkRecipe(
            tokenizer_dialogues=500,
            steps=total,
            batch_dialogues=8,
            groups=2,
            warmup=warmup,
            rates=((0, 1.0), (max(1, total // 2), 1.0), (max(2, total), 0.0)),
            # A CPU that has to compile a bf16 product for each new shape needs ten times as long with it.
            bfloat16=False,
            check_every=total,
            check_dialogues=64,
            save_every=max(1, total // 10),
        ),
        mtp=None,
    )
