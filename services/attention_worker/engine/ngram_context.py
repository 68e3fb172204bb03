"""The ids before each token of a chunk that its n-grams reach; derived from the sequence's ids at every step.

So nothing is kept: a chunk, a replay, a sequence whose pages were taken, or one that moves to another worker needs no
more than its ids. Legend: T tokens of a chunk, N ids of the longest n-gram.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.checkpoint.ngram import NgramConfig

Ids = NDArray[np.int64]


def context_of(config: NgramConfig, ids: list[int], start: int, length: int) -> Ids:
    """[T, N] for positions start to start + length - 1: the token itself, then those before it, nearest first.

    0 stands before the sequence's start and from a boundary on (`NgramConfig.before`).
    """
    if length == 1:
        return np.array([[ids[start], *config.before(ids, start)]], np.int64)
    reach = config.context
    window = np.zeros(reach + length, np.int64)
    first = max(0, start - reach)
    window[reach - (start - first) :] = ids[first : start + length]
    inside = np.arange(start - reach, start + length) >= 0
    inside &= ~np.isin(window, config.boundary_ids)
    context_TN = np.empty((length, config.neighbours), np.int64)
    context_TN[:, 0] = window[reach:]
    seen_T = np.ones(length, bool)
    for back in range(1, config.neighbours):
        here = slice(reach - back, reach - back + length)
        seen_T &= inside[here]
        context_TN[:, back] = np.where(seen_T, window[here], 0)
    return context_TN
