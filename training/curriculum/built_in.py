"""The recipe of the built-in model: stages with the mixtures that the search has chosen, and all that follows."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

from training.curriculum.stages import CurriculumRecipe, DataStage
from training.data.corpus import Mixture
from training.model.config import ModelConfig
from training.recipe import AgenticRecipe, MtpRecipe, Recipe, TrunkRecipe

MIXTURES = Path(__file__).parent / "mixtures.json"  # what `python -m training.curriculum.search` has chosen

# Queries, keys and values are equally wide: torch has a fast attention on CPUs for no other ones.
MODEL = ModelConfig(kv_lora_rank=64, qk_nope_head_dim=32, v_head_dim=48)

# Each roll-out is learned about once, and gently, or the model learns the words of its roll-outs by heart.
AGENTIC = AgenticRecipe(steps=40, rates=((0, 1.0), (10, 1.0), (40, 0.0)), matrix_rate=0.001, vector_rate=0.00025)
# Many small steps rather than few large ones, on as many dialogues of each kind, for drafts are hard to learn in all.
MTP = MtpRecipe(steps=600, batch_dialogues=12, groups=4, rates=((0, 1.0), (200, 1.0), (600, 0.0)))


@cache
def chosen_mixtures() -> dict[str, Mixture]:
    """Returns the mixtures that the search has chosen, by stage: none before it has."""
    if not MIXTURES.exists():
        return {}
    raw: dict[str, dict[str, float]] = json.loads(MIXTURES.read_text(encoding="utf-8"))
    return {name: Mixture.of(shares) for name, shares in raw.items()}


def curriculum() -> CurriculumRecipe:
    """Returns the stages of the built-in model. Theta rises with the length of dialogues.

    Mixtures are even as long as no search has been run.
    """
    mixtures = defaultdict(Mixture, chosen_mixtures())
    return CurriculumRecipe(
        (
            DataStage("pre-training", 1700, mixtures["pre-training"], 0.0, 0.95, 10_000.0),
            DataStage("mid-training", 2300, mixtures["mid-training"], 0.0, 0.97, 10_000.0),
            DataStage("context extension", 300, mixtures["context extension"], 0.25, 0.98, 50_000.0),
            DataStage("post-training", 1500, mixtures["post-training"], 0.1, 1.01, 50_000.0),
        )
    )


def trunk_recipe(stages: CurriculumRecipe) -> TrunkRecipe:
    """Returns the recipe of a trunk in these stages. Ten dialogues have much noise, so rates are low, and fall."""
    rates = ((0, 0.5), (stages.steps, 0.0))
    return TrunkRecipe(
        steps=stages.steps,
        batch_dialogues=10,
        groups=5,
        embedding_mean=0.2,
        prompt_weight=0.1,
        rates=rates,
        bfloat16=False,
        check_every=250,
        check_dialogues=60,
    )


def recipe_of(seed: int, stages: CurriculumRecipe, agentic: AgenticRecipe, mtp: MtpRecipe) -> Recipe:
    trunk = trunk_recipe(stages)
    return Recipe(seed=seed, model=MODEL, trunk=trunk, curriculum=stages, agentic=agentic, mtp=mtp, determinism=True)
