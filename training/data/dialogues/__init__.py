"""A seeded source of dialogues: every question has exactly one right answer."""

from training.data.dialogues.dialogue import HELD_OUT, Answer, Dialogue, dialogue_at, dialogues

__all__ = ["HELD_OUT", "Answer", "Dialogue", "dialogue_at", "dialogues"]
