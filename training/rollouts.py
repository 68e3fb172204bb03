"""`python -m training.rollouts LOG`: how far the log-probabilities of recorded answers are from those of the training
model, whose arithmetic is another one.

LOG is what `caracal up --record` writes (docs/verify.md), of answers that were asked for with logprobs.
Legend: T tokens of a prompt and its answer, A tokens of the answer, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from training.arguments import named_failures
from training.export.read import load_exported
from training.model.longcat_flash import LongcatFlash

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rollout:
    """One recorded answer."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float]


@dataclass
class Distance:
    """Differences of log-probabilities, training model minus record, over all tokens."""

    differences: list[float] = field(default_factory=list)

    @property
    def largest(self) -> float:
        return max(map(abs, self.differences))

    @property
    def mean(self) -> float:
        return sum(map(abs, self.differences)) / len(self.differences)

    @property
    def divergence(self) -> float:
        """An estimate of the KL divergence per token, record from training model: mean of r - 1 - log r."""
        return sum(math.expm1(one) - one for one in self.differences) / len(self.differences)

    @property
    def equal(self) -> int:
        return self.differences.count(0.0)


def read(log: Path) -> Iterator[Rollout]:
    """Yields the answers that have log-probabilities. Raises ValueError naming the line."""
    with log.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                raw = json.loads(line)
                if raw.get("logprobs"):
                    yield Rollout(raw["prompt_ids"], raw["ids"], [own for own, *_ in raw["logprobs"]])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{log}, line {number}: {type(error).__name__}: {error}") from None


@torch.no_grad()
def logprobs(model: LongcatFlash, rollout: Rollout) -> list[float]:
    """The training model's log-probabilities of the answer's tokens, in one forward pass."""
    ids_T = torch.tensor(rollout.prompt_ids + rollout.ids)
    wanted_A = torch.arange(len(rollout.prompt_ids) - 1, len(ids_T) - 1)
    logits_AV = model(ids_T, [(1, len(ids_T))], wanted_A)
    scored_AV = torch.log_softmax(logits_AV, -1)
    found: list[float] = scored_AV.gather(1, torch.tensor(rollout.ids)[:, None])[:, 0].tolist()
    return found


def compare(model: LongcatFlash, rollouts: Iterator[Rollout]) -> Distance:
    distance = Distance()
    for rollout in rollouts:
        mine = logprobs(model, rollout)
        distance.differences += [one - other for one, other in zip(mine, rollout.logprobs, strict=True)]
    return distance


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.rollouts", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "caracal-tiny")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with named_failures(parser, (OSError, ValueError)):
        model, _ = load_exported(arguments.model, getattr(torch, arguments.dtype))
        found = compare(model, read(arguments.log))
    if not found.differences:
        parser.error(f"{arguments.log}: no answer has logprobs")
    print(
        f"{len(found.differences)} tokens: |difference| of log-probabilities mean {found.mean:.2e}, largest"
        f" {found.largest:.2e}; {found.equal} are equal; KL per token {found.divergence:.2e}"
    )


if __name__ == "__main__":
    main()
