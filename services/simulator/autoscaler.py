"""The algorithm of Kubernetes's HorizontalPodAutoscaler for a metric of pods, with the chart's scale-down. Pure.

As its documentation has it: the number of pods times the ratio of metric to target, rounded up, unless the ratio is
within the tolerance; pods that are not ready count as 0 where that scales up and as the target where it scales down;
the highest recommendation of the stabilization window counts when scaling down.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

SYNC_S = 15.0
TOLERANCE = 0.1
UP_PODS, UP_SHARE, UP_PERIOD_S = 4, 1.0, 15.0  # the default policies of scaling up: the higher of both


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """`target`: of the mean over pods; `queue_target`: of the requests without a token, in the whole release, for each
    pod, which KEDA looks at besides; 0 = it does not. Defaults are the chart's: at most one pod a minute goes."""

    least: int
    most: int
    target: float
    queue_target: float = 0.0
    stabilization_s: float = 300.0
    down_pods: int = 1
    down_period_s: float = 60.0


class HorizontalPodAutoscaler:
    """Keeps what it has recommended and changed."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()  # by how many pods

    def sync(self, now: float, pods: int, values: Sequence[float], starting: int = 0, queued: int = 0) -> int:
        """Returns how many pods there are to be. `values`: the metric of each ready pod; `starting`: pods that are
        not; `queued`: requests without a token. Of two metrics the one counts that wants more pods."""
        wanted = self._wanted(pods, values, starting)
        if self._scaling.queue_target:
            wanted = max(wanted, self._for_queue(pods, queued))
        self._recommended.append((now, wanted))
        while self._recommended[0][0] < now - self._scaling.stabilization_s:
            self._recommended.popleft()
        if wanted < pods:
            wanted = min(pods, max(count for _, count in self._recommended))
        wanted = min(self._scaling.most, max(self._scaling.least, self._limited(now, pods, wanted)))
        if wanted != pods:
            self._changes.append((now, wanted - pods))
        return wanted

    def _wanted(self, pods: int, values: Sequence[float], starting: int) -> int:
        if not values:
            return pods
        target = self._scaling.target
        ratio = sum(values) / len(values) / target
        if abs(ratio - 1) <= TOLERANCE:
            return pods
        if starting:
            assumed = 0.0 if ratio > 1 else target
            count = len(values) + starting
            again = (sum(values) + assumed * starting) / count / target
            if abs(again - 1) <= TOLERANCE or (again > 1) != (ratio > 1):
                return pods
            return math.ceil(again * count)
        return math.ceil(ratio * len(values))

    def _for_queue(self, pods: int, queued: int) -> int:
        """As many as an external metric wants, whose target is a value for each pod, ready or not."""
        target = self._scaling.queue_target
        if pods and abs(queued / (target * pods) - 1) <= TOLERANCE:
            return pods
        return math.ceil(queued / target)

    def _limited(self, now: float, pods: int, wanted: int) -> int:
        """What the policies leave of a change."""
        longest = max(UP_PERIOD_S, self._scaling.down_period_s)
        while self._changes and self._changes[0][0] <= now - longest:
            self._changes.popleft()
        if wanted > pods:
            before = pods - sum(by for at, by in self._changes if by > 0 and at > now - UP_PERIOD_S)
            return min(wanted, max(before + UP_PODS, math.ceil(before * (1 + UP_SHARE))))
        if wanted < pods:
            before = pods - sum(by for at, by in self._changes if by < 0 and at > now - self._scaling.down_period_s)
            return max(wanted, before - self._scaling.down_pods)
        return pods
