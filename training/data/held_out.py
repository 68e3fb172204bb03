"""What a model is evaluated on: held-out dialogues, of words that training has seen or not."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from training.data.corpus import NOVELTIES, Source
from training.data.dialogues import Dialogue, dialogues

Stream = Callable[[int, int, int], Iterator[Dialogue]]  # seed, first number, count


def held_out_dialogues(data: str, words: str) -> Stream:
    """Returns a stream. Raises ValueError where the data have no unseen words."""
    if data == "corpus":
        return Source(novelty=NOVELTIES[words]).dialogues
    if words != "seen":
        raise ValueError(f"--words {words}: only --data corpus has words that training never shows")
    return dialogues


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        choices=["dialogues", "corpus"],
        default="corpus",
        help="corpus: all kinds of the curriculum, evenly; dialogues: the smaller world of experiments",
    )
    parser.add_argument(
        "--words",
        choices=list(NOVELTIES),
        default="seen",
        help="words: names, cities, units and things that training never shows; all: these, in forms of the kind",
    )
