"""Trains a tiny trunk and its MTP module, once alone, and again and again in processes that are killed.

`python -m support.killed_training FOLDER KILLS SEED`: the run that is left alone is FOLDER/alone; another,
FOLDER/timed, says how long one takes. The others begin in FOLDER/0, are killed by SIGKILL at random moments and started
again; when one has ended, the next folder's begins, until KILLS processes were killed. The last run ends by itself.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

from rich.console import Console

from training.determinism.mode import make_deterministic
from training.export.write import export
from training.model.config import ModelConfig
from training.mtp.stage import Mtp
from training.recipe import MtpRecipe, Recipe, TrunkRecipe
from training.trunk import Trunk

SIZES = {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "ffn_hidden_size": 16, "expert_ffn_hidden_size": 8}
TRUNK = TrunkRecipe(
    tokenizer_dialogues=5,
    steps=16,
    batch_dialogues=1,
    groups=1,
    warmup=4,
    check_every=5,
    check_dialogues=1,
    save_every=3,
)
MTP = MtpRecipe(steps=8, batch_dialogues=1, groups=1, warmup=4, check_every=3, save_every=2)
RECIPE = Recipe(model=ModelConfig(**SIZES), trunk=TRUNK, mtp=MTP, determinism=True)


def make(folder: Path) -> None:
    """What `python -m training` does, but for the plots."""
    console = Console(quiet=True)
    trunk = Trunk(folder / "run", RECIPE)
    trunk.run(console)
    export(trunk.model, trunk.tokenizer, folder / "model")
    mtp = Mtp(folder / "run" / "mtp", folder / "model", RECIPE.seed, MTP)
    mtp.run(console)
    mtp.publish()


def attempt(folder: Path, seconds: float = math.inf) -> bool:
    """Trains in a process of its own, killed after `seconds`. Returns whether it was still running then."""
    end = time.perf_counter() + seconds
    child = os.fork()
    if child == 0:
        code = 1
        try:
            make(folder)
            code = 0
        finally:
            os._exit(code)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        if time.perf_counter() >= end:
            os.kill(child, signal.SIGKILL)
            return os.WIFSIGNALED(os.waitpid(child, 0)[1])
        time.sleep(0.001)


def main() -> None:
    folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), Random(int(sys.argv[3]))
    make_deterministic()  # on one thread: a forked process has none of its parent's
    make(folder / "alone")
    begun = time.perf_counter()
    attempt(folder / "timed")
    whole = time.perf_counter() - begun
    run = killed = 0
    while killed < kills:
        begun = time.perf_counter()
        if attempt(folder / str(run), rng.uniform(0.0, whole / 2)):
            killed += 1
        else:
            run += 1
            whole = min(whole, 2 * (time.perf_counter() - begun))  # the machine was busier when it was timed
    attempt(folder / str(run))


if __name__ == "__main__":
    main()
