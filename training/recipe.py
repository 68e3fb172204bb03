"""The recipe that makes the built-in model: one object, with parts that can be left out one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    bfloat16: bool = True  # matmuls; weights and routers are fp32 in any case
    log_every: int = 10
    check_every: int = 200
    check_dialogues: int = 100  # held-out ones
    save_every: int = 100


@dataclass(frozen=True)
class ControllerRecipe:
    """The zero-expert bias controller. Left out, the selection bias stays zero."""

    ffn_experts: float = 4.0  # K_e: the target of FFN experts per token
    bias_rate: float = 0.2  # μ: falls with the learning rates, but not below a tenth


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
    answer_tokens: int = 96  # an answer that has not ended is cut here
    passes: int = 3  # drafts per place that are learned: as many as a server may ask for
    warmup: int = 20
    rates: tuple[tuple[int, float], ...] = ((0, 1.0), (100, 1.0), (300, 0.0))
    matrix_rate: float = 0.02
    vector_rate: float = 0.004
    weight_decay: float = 0.05
    log_every: int = 10
    check_every: int = 25
    save_every: int = 25


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model. The seed determines tokenizer, initial weights and every batch."""

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    trunk: TrunkRecipe = TrunkRecipe()
    controller: ControllerRecipe | None = ControllerRecipe()
    mtp: MtpRecipe | None = MtpRecipe()
    adam: AdamRecipe | None = None
    growth: GrowthRecipe | None = None
