"""The recipe that makes the built-in model: one object, with parts that can be left out one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.curriculum.stages import CurriculumRecipe
from training.model.config import ModelConfig


@dataclass(frozen=True)
class TrunkRecipe:
    """Hyperparameters of the trunk's stage: everything but the drafts."""

    tokenizer_dialogues: int = 3000  # of the seed's stream; the tokenizer is trained on them
    steps: int = 1900
    batch_dialogues: int = 32
    groups: int = 8  # a batch is padded in groups of similar length
    warmup: int = 60
    # (step, factor of the learning rates), linear in between: they fall, rise once more, and fall to zero.
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (450, 1.0), (1299, 0.19), (1300, 0.5), (1500, 0.4), (1900, 0.0))
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.05
    check_every: int = 200
    check_dialogues: int = 100  # held-out ones
    save_every: int = 100


@dataclass(frozen=True)
class ControllerRecipe:
    """The zero-expert bias controller. Left out, the selection bias stays zero."""

    ffn_experts: float = 4.0  # K_e: the target of FFN experts per token
    bias_rate: float = 0.2  # μ: falls with the learning rates, but not below a tenth


@dataclass(frozen=True)
class MtpRecipe:
    """Hyperparameters of the MTP module's stage. Left out, the model drafts nothing."""

    steps: int = 300
    # Dialogues of the trunk's own seed, from behind those that it was trained on.
    first_dialogue: int = 100_000
    batch_dialogues: int = 32
    groups: int = 8
    answer_tokens: int = 96  # an answer that has not ended is cut here
    passes: int = 3  # drafts per place that are learned: as many as a server may ask for
    warmup: int = 20
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (100, 1.0), (300, 0.0))
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.05
    check_every: int = 25
    save_every: int = 25


@dataclass(frozen=True)
class AgenticRecipe:
    """Rejection-sampling fine-tuning: roll-outs of tasks through a cluster, of which those that succeed are learned.

    Left out, the model is the trunk's.
    """

    rounds: int = 2
    tasks: int = 240  # of a round
    samples: int = 4  # roll-outs of a task
    temperature: float = 1.0
    reply_tokens: int = 96
    steps: int = 120  # of a round
    batch_dialogues: int = 16
    replay: float = 0.5  # share of a batch from the curriculum's last stage, so that nothing else is forgotten
    groups: int = 8
    warmup: int = 10
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (40, 1.0), (120, 0.0))
    matrix_rate: float = 0.004
    vector_rate: float = 0.001
    weight_decay: float = 0.0
    check_every: int = 60
    save_every: int = 30


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model. The seed determines tokenizer, initial weights and every batch."""

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    trunk: TrunkRecipe = TrunkRecipe()
    curriculum: CurriculumRecipe | None = None  # None: the small dialogues of training/data/dialogues, in one stage
    agentic: AgenticRecipe | None = None
    controller: ControllerRecipe | None = ControllerRecipe()
    mtp: MtpRecipe | None = MtpRecipe()
