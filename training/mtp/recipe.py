"""The recipe that trains the MTP module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MtpRecipe:
    """Hyperparameters of a run. The seed determines initial weights and every batch."""

    seed: int = 1
    steps: int = 300
    # Dialogues of the trunk's own seed, from behind those that it was trained on.
    first_dialogue: int = 100_000
    batch_dialogues: int = 32
    groups: int = 8  # a batch is padded in groups of similar length
    answer_tokens: int = 96  # an answer that has not ended is cut here
    passes: int = 3  # drafts per place that are learned: as many as a server may ask for
    warmup: int = 20
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (100, 1.0), (300, 0.0))  # (step, factor), linear in between
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.05
    save_every: int = 25
