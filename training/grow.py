"""`python -m training.grow --run FOLDER --to FOLDER`: begins a deeper model's run where another run is.

The layers of its last checkpoint will be stacked, with the optimizer's state, counters and schedule kept. What it
writes is the run of the deeper model's recipe at the step of its growth: one with that recipe from the start has the
same bits. Interrupted, it can be given again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.determinism.run_folder import LOG, RunFolder, read_run
from training.recipe import GrowthRecipe

HERE = Path(__file__).parent


def grown(recipe: dict[str, Any], step: int, factor: int) -> dict[str, Any]:
    """Returns the recipe of the deeper model. Raises ValueError when the run cannot grow."""
    if recipe["growth"] is not None:
        raise ValueError(f"the run grows at step {recipe['growth']['step']} already")
    if factor < 2:
        raise ValueError(f"a model does not grow by stacking its layers {factor} times")
    if step >= recipe["trunk"]["steps"]:
        raise ValueError(f"the run has ended with step {step}: its schedule has no step left for the deeper model")
    model = recipe["model"] | {"num_layers": factor * recipe["model"]["num_layers"]}
    return recipe | {"model": model, "growth": asdict(GrowthRecipe(step, factor))}


def grow(run: Path, to: Path, factor: int) -> dict[str, Any]:
    """Makes the folder `to` and returns its recipe. Raises ValueError when `run` has no checkpoint, or cannot grow."""
    recipe, tensors, log = read_run(run)
    step = int(tensors["progress"][0])
    deeper = grown(recipe, step, factor)
    target = RunFolder(to, deeper)
    if target.load() is None:
        target.write(LOG, log)
        target.trim_log(step)
        target.save(tensors)
    return deeper


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.grow", description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "tiny", help="the shallow model's; it is only read")
    parser.add_argument("--to", type=Path, required=True, help="folder of the deeper model's run")
    parser.add_argument(
        "--factor", type=int, default=GrowthRecipe.factor, help="r: how many times the layers are stacked"
    )
    given = parser.parse_args()
    try:
        recipe = grow(given.run, given.to, given.factor)
    except ValueError as error:
        sys.exit(f"error: {error}")
    step, layers = recipe["growth"]["step"], recipe["model"]["num_layers"]
    print(f"{given.to}: {layers} layers from step {step} on; train them with the command that trained {given.run}, and")
    print(f"  --run {given.to} --layers {layers} --grow {step} {given.factor}")


if __name__ == "__main__":
    main()
