"""The recipe that makes the built-in model: one object, with parts that can be left out one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.curriculum.stages import CurriculumRecipe
from training.model.config import SERVED, Architecture, ModelConfig


@dataclass(frozen=True)
class TrunkRecipe:
    """Hyperparameters of the trunk's stage: everything but the drafts."""

    tokenizer_dialogues: int = 3000  # of the seed's stream; the tokenizer is trained on them
    steps: int = 1900
    batch_dialogues: int = 32
    groups: int = 8  # a batch is padded in groups of similar length
    embedding_mean: float = 0.0  # RMS of one vector that all embeddings have in common at the beginning
    prompt_weight: float = 0.0  # of each token that is no answer's; one of an answer of n has n^-0.5
    warmup: int = 60
    # (step, factor of the learning rates), linear in between: they fall, rise once more, and fall to zero.
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (450, 1.0), (1299, 0.19), (1300, 0.5), (1500, 0.4), (1900, 0.0))
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.05
    adam_epsilon: float = 1e-16  # has to be far below the gradients' size
    bfloat16: bool = True  # matmuls; weights and routers are fp32 in any case
    log_every: int = 10
    check_every: int = 200
    check_dialogues: int = 100  # held-out ones
    save_every: int = 100


@dataclass(frozen=True)
class ControllerRecipe:
    """The zero-expert bias controller. Left out, the selection bias stays zero."""

    ffn_experts: float = 4.0  # K_e: the target of FFN experts per token
    bias_rate: float = 0.2  # μ: falls with the learning rates, but not below `decay_floor` of this
    decay_floor: float = 0.1  # 1: μ does not fall
    integral: float = 0.0  # weights of the sum of all errors and of the last change, beside the error itself
    derivative: float = 0.0
    every: int = 1  # steps between adjustments, which count all tokens of these steps


@dataclass(frozen=True)
class BalanceRecipe:
    """The device-level balance loss. Left out, only the controller balances."""

    ffn_experts: float = 4.0  # K_e, as the controller's
    groups: int = 4  # D: as many as devices that share the FFN experts
    weight: float = 0.01  # α, or less where the gradients' ratio would be above its limit
    gradient_ratio: float | None = 0.09  # of R_g, at each layer's router; None: α is never less. The report: below 0.1


@dataclass(frozen=True)
class HiddenRecipe:
    """The hidden z-loss. Left out, nothing bounds the last layer's output."""

    weight: float = 1e-5  # λ


@dataclass(frozen=True)
class MonitorRecipe:
    """What is read beside the loss. Left out, no step is slowed down by it."""

    every: int = 10  # steps


@dataclass(frozen=True)
class DisturbanceRecipe:
    """Steps whose batch is broken on purpose: its targets are drawn at random. For experiments."""

    steps: tuple[int, ...]


@dataclass(frozen=True)
class AdamRecipe:
    """AdamW for every parameter, with rate and variance found on a narrow model of the same depth, the proxy.

    Left out, Muon trains the matrices. Adam LR Full Align: `training/optimizer/full_align.py`.
    """

    rate: float = 0.004  # η, of the proxy
    variance: float = 1.0  # σ² of the proxy's hidden matrices and unembedding, times their number of inputs
    scale: float = 1.0  # s: the model's width over the proxy's
    aligned: bool = True  # without, η and σ² of the proxy are taken as they are


@dataclass(frozen=True)
class GrowthRecipe:
    """The run begins with a part of the layers, and stacks them. Left out, it begins with all of them."""

    step: int  # the first that the whole model makes
    factor: int = 2  # r: the model's layers over those at the beginning


@dataclass(frozen=True)
class MtpRecipe:
    """Hyperparameters of the MTP module's stage. Left out, the model drafts nothing."""

    steps: int = 300
    # Dialogues of the trunk's own seed, from behind those that it was trained on.
    first_dialogue: int = 100_000
    batch_dialogues: int = 32
    groups: int = 8
    passes: int = 3  # drafts per place that are learned: as many as a server may ask for
    warmup: int = 20
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (100, 1.0), (300, 0.0))
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.05
    adam_epsilon: float = 1e-16
    log_every: int = 10
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
    adam_epsilon: float = 1e-16
    log_every: int = 10
    check_every: int = 60
    save_every: int = 30


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model. The seed determines tokenizer, initial weights and every batch.

    `determinism`: the padded groups of a batch are computed one by one and added in a fixed tree, so that neither
    threads nor ranks change a bit; without it a batch is computed as one.
    """

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    trunk: TrunkRecipe = TrunkRecipe()
    architecture: Architecture = SERVED
    curriculum: CurriculumRecipe | None = None  # None: the small dialogues of training/data/dialogues, in one stage
    agentic: AgenticRecipe | None = None
    controller: ControllerRecipe | None = ControllerRecipe()
    balance: BalanceRecipe | None = BalanceRecipe()
    hidden: HiddenRecipe | None = HiddenRecipe()
    monitors: MonitorRecipe | None = MonitorRecipe()
    disturbance: DisturbanceRecipe | None = None
    mtp: MtpRecipe | None = MtpRecipe()
    determinism: bool = False
    adam: AdamRecipe | None = None
    growth: GrowthRecipe | None = None
