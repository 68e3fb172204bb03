"""The corpus of the curriculum: dialogues of many kinds, a part of whose words and forms training never shows."""

from training.data.corpus.dialogue import Source
from training.data.corpus.mixture import KINDS, Mixture
from training.data.words.vocabulary import NOVELTIES, SEEN, UNSEEN_ALL, UNSEEN_WORDS, Novelty

__all__ = ["KINDS", "NOVELTIES", "SEEN", "UNSEEN_ALL", "UNSEEN_WORDS", "Mixture", "Novelty", "Source"]
