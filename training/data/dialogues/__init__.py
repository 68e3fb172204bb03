"""A seeded source of dialogues: every question has exactly one right answer."""

from training.data.dialogues.dialogue import Answer, Dialogue, dialogue_at, dialogues

__all__ = ["Answer", "Dialogue", "dialogue_at", "dialogues"]
