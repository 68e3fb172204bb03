"""`python -m support.models_page`: docs/models.md, by opening a small checkpoint of every published variant.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from support.fp64_reference import Fp64Reference
from support.hf_oracle import load_oracle, oracle_logits
from support.mlx_oracle import mlx_logits
from support.paged import Paged, local_dispatcher
from support.published import REFUSED, SERVED, Variant, build
from torch import Tensor

from services.attention_worker.model.model import load_model
from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint

TOLERANCE = 1e-4  # of logits whose standard deviation is 1
INTRO = """# Models

Made by `make models`; a test compares it with the code. For every published checkpoint the tests write a small one with
every field and file of the published layout (`tests/support/published.py`: the names and values are the published ones,
the sizes and weights are not), open it untouched, and compare the logits of a whole sequence, computed in fp32, with
those of other implementations. Over gRPC and the nccl link the logits have the same bits
(`tests/checkpoint/test_published.py`). **No published checkpoint itself was opened: they are hundreds of gigabytes.**

## Served

The largest difference of any logit, where the standard deviation of logits is 1. `fp64` is our own plain reference
(`tests/support/fp64_reference.py`), `transformers` and `mlx-lm` are not ours.

| checkpoint | tokens | transformers | mlx-lm | fp64 |
|---|---|---|---|---|
"""
REFUSED_INTRO = """
## Refused

With one line that names what is missing, before any weight is read.

| checkpoint | line |
|---|---|
"""


def sequence(variant: Variant, *, ends: bool) -> list[int]:
    """Random ids after a bos; with `ends` some are the eos, at which n-gram contexts end."""
    rng = Random(variant.length)
    ids = [1, *(rng.randrange(4, variant.raw["vocab_size"]) for _ in range(variant.length - 1))]
    return [2 if ends and rng.random() < 0.05 else each for each in ids]


def our_logits(checkpoint: Checkpoint, ids: list[int]) -> Tensor:
    """[T, V] of a whole sequence in one step, experts in this process."""
    model = load_model(checkpoint, torch.float32, lambda done, total: None)
    with local_dispatcher(checkpoint, torch.float32) as dispatcher:
        return Paged(model, dispatcher, capacity=len(ids)).feed({0: ids})[0]


_ORACLES: dict[str, Callable[[Checkpoint, list[int]], Tensor]] = {
    "transformers": lambda checkpoint, ids: oracle_logits(load_oracle(checkpoint, torch.float32), ids),
    "mlx-lm": lambda checkpoint, ids: mlx_logits(checkpoint.path, ids),
    "fp64": lambda checkpoint, ids: Fp64Reference(checkpoint.path).logits(ids),
}


@torch.inference_mode()
def differences(variant: Variant, path: Path) -> dict[str, float]:
    """The largest difference from each of the variant's oracles."""
    checkpoint = Checkpoint.open(build(variant, path))
    found = {}
    for name in variant.oracles:
        ids = sequence(variant, ends=name != "mlx-lm")
        found[name] = float((our_logits(checkpoint, ids) - _ORACLES[name](checkpoint, ids)).abs().max())
    return found


def refused_with(variant: Variant, path: Path) -> str:
    """The line with which a variant is refused; empty when it is not."""
    try:
        Checkpoint.open(build(variant, path))
    except CheckpointError as error:
        return str(error)
    return ""


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """The largest differences of every served variant, by its name and the oracle's."""
    return {variant.name: differences(variant, folder / f"served-{number}") for number, variant in enumerate(SERVED)}


def markdown(found: dict[str, dict[str, float]]) -> str:
    """Returns the text of docs/models.md. `found`: of `measured`."""
    parts = [INTRO]
    for variant in SERVED:
        cells = [f"{found[variant.name][name]:.0e}" if name in variant.oracles else "" for name in _ORACLES]
        parts.append(f"| {variant.name} | {variant.length} | {' | '.join(cells)} |\n")
    parts.append(REFUSED_INTRO)
    parts += [f"| {variant.name} | `config.json: {variant.line}` |\n" for variant in REFUSED]
    return "".join(parts)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(markdown(measured(Path(made))), end="")
