"""The models that experiments on width and depth train, with AdamW alone: seconds on one core.

Of the suite they have the controller only, so that nothing but width and depth changes what the loss is.
"""

from __future__ import annotations

from training.model.config import ModelConfig
from training.recipe import AdamRecipe, ControllerRecipe, Recipe, TrunkRecipe

HEAD = 32  # a head's share of the width
HELD_OUT_DIALOGUES = 128


def narrow(width: int, layers: int, steps: int, decay: int, seed: int, adam: AdamRecipe) -> Recipe:
    """Returns the recipe; all sizes but a head's and the number of experts grow with `width`.

    Rates fall over the last `decay` steps. Experts, choices and the target are half of the built-in model's.
    """
    model = ModelConfig(
        vocab_size=512,
        hidden_size=width,
        num_layers=layers,
        num_attention_heads=width // HEAD,
        q_lora_rank=width // 2,
        kv_lora_rank=width // 4,
        ffn_hidden_size=2 * width,
        expert_ffn_hidden_size=width // 2,
        n_routed_experts=8,
        zero_expert_num=4,
        moe_topk=3,
    )
    trunk = TrunkRecipe(
        tokenizer_dialogues=300,
        steps=steps,
        batch_dialogues=4,
        groups=2,
        warmup=max(1, steps // 10),
        rates=((0, 1.0), (max(1, steps - decay), 1.0), (max(2, steps), 0.0)),
        weight_decay=0.0,
        bfloat16=False,
        log_every=max(1, steps // 100),
        check_every=steps,
        check_dialogues=4,
        save_every=max(1, steps // 4),
    )
    return Recipe(
        seed=seed,
        model=model,
        trunk=trunk,
        controller=ControllerRecipe(2.0),
        balance=None,
        hidden=None,
        monitors=None,
        mtp=None,
        adam=adam,
    )
