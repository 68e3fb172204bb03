"""What a trunk learns at each of its steps: the dialogues of the curriculum's stage, or without one the small ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from training.curriculum.stages import EVERYTHING
from training.data.dialogues import Dialogue, dialogues
from training.data.tokenizer import train_tokenizer
from training.model.longcat_flash import LongcatFlash
from training.recipe import Recipe


class Lessons:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def tokenizer(self) -> Tokenizer:
        recipe, source = self.recipe, EVERYTHING.dialogues if self.recipe.curriculum else dialogues
        sizes = recipe.model.vocab_size, recipe.trunk.tokenizer_dialogues
        return train_tokenizer(recipe.seed, *sizes, source, compact=recipe.curriculum is not None)

    def enter(self, model: LongcatFlash, step: int) -> None:
        """Lets the model rotate positions as the stage of this step says."""
        if self.recipe.curriculum:
            model.config = replace(model.config, rope_theta=self.recipe.curriculum.at(step).rope_theta)

    def at(self, step: int, seed: int, start: int, count: int) -> Iterable[Dialogue]:
        """Returns dialogues of a seed's stream, of the kind that is learned at a step."""
        curriculum = self.recipe.curriculum
        return (curriculum.at(step).source.dialogues if curriculum else dialogues)(seed, start, count)

    def behind(self, step: int, exact: float) -> tuple[int, dict[str, Any] | None]:
        """Returns at which step to go on after this one, and a record for the log if a stage is left early.

        `exact`: the share of held-out answers of the stage of the step before.
        """
        curriculum = self.recipe.curriculum
        if curriculum is None:
            return step, None
        stage, end = curriculum.at(step - 1), curriculum.end(step - 1)
        if not stage.left_at(exact) or step == end:
            return step, None
        return end, {"kind": "stage", "step": end, "left": stage.name, "at": step, "exact": exact}
