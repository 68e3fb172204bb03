"""How a question is put: a core in a frame. A fifth of all combinations is never shown in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random

from training.data.words.vocabulary import unseen

# `{}` is the place of the core. A core is a whole sentence with its own capital and mark.
FRAMES = (
    "{}", "{}", "{}", "Please: {}", "Tell me: {}", "{} Please.", "Quick question: {}", "Now: {}", "Next: {}", "So: {}",
    "Another one. {}", "{} Thanks.", "Can you help? {}", "One more: {}", "I wonder: {}",
)  # fmt: skip


@lru_cache(maxsize=4096)
def framed(cores: tuple[str, ...], novel: bool) -> tuple[str, ...]:
    """Returns the combinations of one half. A core alone is seen, so that every core is, in some frame."""
    every = [frame.replace("{}", core) for frame in FRAMES for core in cores]
    return tuple(form for form in every if (form not in cores and unseen(form)) is novel)


def ask(rng: Random, cores: Sequence[str], novel: bool, **values: object) -> str:
    """Returns a question; `{name}` in a core is the place of a value."""
    return rng.choice(framed(tuple(cores), novel)).format(**values)
