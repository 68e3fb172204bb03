"""`python -m bench.placement.recorded` counts which FFN experts the built-in model chooses, minute by minute.

Held-out dialogues pass through the training model; in the second half only those that declare tools, so that the load
changes. Writes recorded.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from bench.arguments import file, number
from bench.placement.simulation import Floats
from bench.processes import REPO
from training.data.batches import batch
from training.data.corpus import Source
from training.data.dialogues import HELD_OUT, Dialogue
from training.export.read import load_exported

MODEL = REPO / "models" / "caracal-tiny"
RECORDED = Path(__file__).with_name("recorded.json")
MINUTES, DIALOGUES = 40, 64  # so many dialogues a minute
POOL = 1 << 15


def counts() -> Floats:
    """The recorded counts by minute, layer and FFN expert."""
    return np.array(json.loads(RECORDED.read_text())["counts"], dtype=np.float64)


@torch.no_grad()
def record(minutes: int, each: int) -> dict[str, object]:
    model, tokenizer = load_exported(MODEL)
    experts = model.config.n_routed_experts
    found: list[list[list[int]]] = []
    for part in _parts(minutes, each):
        step = batch(tokenizer, part, groups=8)
        model(step.ids_T, step.groups, step.wanted_A)
        found.append([])
        for moe in model.mixtures():
            assert moe.chosen_TK is not None
            chosen = moe.chosen_TK[step.real_T].flatten()
            found[-1].append(chosen.bincount(minlength=experts)[:experts].tolist())
    return {"model": MODEL.name, "dialogues_a_minute": each, "counts": found}


def _parts(minutes: int, each: int) -> Iterator[list[Dialogue]]:
    corpus = Source()
    any_ = corpus.dialogues(HELD_OUT, 0, POOL)
    with_tools = (dialogue for dialogue in corpus.dialogues(HELD_OUT + 2, 0, POOL) if dialogue.tools)
    for minute in range(minutes):
        yield list(islice(any_ if minute < minutes // 2 else with_tools, each))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.placement.recorded", description=__doc__)
    parser.add_argument("--minutes", type=number(2), default=MINUTES)
    parser.add_argument("--out", type=file, default=RECORDED, help="where the counts go")
    given = parser.parse_args()
    given.out.write_text(json.dumps(record(given.minutes, DIALOGUES)) + "\n")


if __name__ == "__main__":
    main()
