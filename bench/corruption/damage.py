"""Damages the memory of the worker's process that it is imported into: bits flip in weights and in pages.

Services have no hook for it: `damaged_attention` and `damaged_expert` start a worker as `services` do, and a thread
that looks for the worker's objects. What is damaged, and in which worker, the environment says; it begins when a file
is there, and the file then says what was hit.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

KIND, WORKER, WHEN = "BENCH_DAMAGE", "BENCH_DAMAGED_WORKER", "BENCH_DAMAGE_WHEN"
ONCE, FLICKERS, PAGES = "once", "flickers", "pages"
WRONG_S, PERIOD_S = 0.001, 1.0  # a thousandth of the time
BIT = 1 << 9  # of a bf16 value: it becomes 16 times as large or small

T = TypeVar("T")


def flip(tensor: Tensor, place: int = 0) -> None:
    """Flips a bit of one value; the same once more undoes it."""
    tensor.view(-1).view(torch.int16)[place] ^= BIT


def the_only(kind: type[T]) -> T:
    (found,) = (one for one in gc.get_objects() if type(one) is kind)
    return found


def begin(damage: Callable[[str, Path], None]) -> None:
    """Calls `damage` with its kind and the file, on a thread of its own, if this is the worker that is meant."""
    if os.environ.get("CARACAL_WORKER_ID") == os.environ.get(WORKER):
        arguments = os.environ[KIND], Path(os.environ[WHEN])
        threading.Thread(target=_when_asked, args=(damage, *arguments), daemon=True).start()


def _when_asked(damage: Callable[[str, Path], None], kind: str, when: Path) -> None:
    """`pages` is damaged each time that the file is there again, everything else once."""
    while True:
        while not when.exists():
            time.sleep(0.01)
        damage(kind, when)
        if kind != PAGES:
            return


def flicker(weights: Callable[[], Sequence[Tensor]], when: Path) -> None:
    """Flips a bit of each for a thousandth of the time, at random moments, and back."""
    chooser = random.Random(0)
    when.write_text("weights")
    while True:
        time.sleep(chooser.uniform(0, 2 * (PERIOD_S - WRONG_S)))
        chosen = weights()
        for each in chosen:
            flip(each)
        time.sleep(WRONG_S)
        for each in chosen:
            flip(each)
