"""When requests are sent: all at once, or at a rate with gaps of a gamma distribution. Pure."""

from __future__ import annotations

import itertools
import math
import random


def arrivals(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds after the start at which each of `count` requests is due.

    `rate`: requests per second, inf = all at 0. A burstiness of 1 is a Poisson process, below it requests come in
    bursts, above it more evenly, and inf is a fixed interval. Times are scaled so that the last one is count / rate.
    """
    if math.isinf(rate):
        return [0.0] * count
    if math.isinf(burstiness):
        return [(number + 1) / rate for number in range(count)]
    gaps = random.Random(seed)
    times = list(itertools.accumulate(gaps.gammavariate(burstiness, 1 / (rate * burstiness)) for _ in range(count)))
    scale = count / rate / times[-1] if times and times[-1] > 0 else 1.0
    return [time * scale for time in times]
