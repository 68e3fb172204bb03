"""The loss on held-out dialogues, which tells variants of a recipe apart with less noise than a training batch.

Legend: A tokens of answers, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.data.batches import batch
from training.data.dialogues import HELD_OUT, dialogues
from training.trunk import Trunk

DIALOGUES, CHUNK = 128, 32


@torch.no_grad()
def held_out_loss(trunk: Trunk, count: int = DIALOGUES) -> float:
    """Returns the training loss (nats, answers weighted alike) over held-out dialogues, in fp32."""
    total = weight = 0.0
    for start in range(0, count, CHUNK):
        stream = dialogues(HELD_OUT, start, min(CHUNK, count - start))
        step = batch(trunk.tokenizer, stream, trunk.recipe.trunk.groups)
        logits_AV = trunk.model(step.ids_T, step.groups, step.wanted_A)
        loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
        total += (loss_A * step.weight_A).sum().item()
        weight += step.weight_A.sum().item()
    return total / weight
