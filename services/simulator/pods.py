"""Pods of one role, as a StatefulSet has them: by ordinal, and started again when they die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Pod:
    """`ready_at`: when it began to serve; -1 = it starts."""

    name: str
    ordinal: int
    boot: int
    node: str
    ready_at: float = -1.0
    draining: bool = False
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)
    ready: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def boot_id(self) -> str:
        return f"{self.name}/{self.boot}"


class StatefulSet:
    """`wanted` pods of a role. `start_s`: from a pod's creation to its readiness; `joined` is called then."""

    def __init__(
        self,
        role: str,
        start_s: float,
        per_node: int,
        loop: asyncio.AbstractEventLoop,
        joined: Callable[[Pod], None],
    ) -> None:
        self.role, self._start_s, self._per_node, self._loop, self._joined = role, start_s, per_node, loop, joined
        self.pods: dict[int, Pod] = {}
        self.wanted = 0
        self._boots = 0
        self.pod_seconds, self._counted_at = 0.0, 0.0

    @property
    def ready(self) -> list[Pod]:
        return [pod for _, pod in sorted(self.pods.items()) if pod.ready_at >= 0]

    @property
    def starting(self) -> int:
        return len(self.pods) - len(self.ready)

    def count(self) -> None:
        """Adds up what the pods have cost until now."""
        now = self._loop.time()
        self.pod_seconds += len(self.pods) * (now - self._counted_at)
        self._counted_at = now

    def begin(self, pods: int) -> None:
        """Pods that are ready from the beginning."""
        self.wanted = pods
        for ordinal in range(pods):
            self._ready(self._create(ordinal))

    def scale(self, wanted: int) -> list[Pod]:
        """Starts what lacks; returns the pods that have to drain, the highest ordinals first."""
        self.count()
        self.wanted = wanted
        for ordinal in range(wanted):
            if ordinal not in self.pods:
                self.start(ordinal)
        return [self.pods[ordinal] for ordinal in sorted(self.pods, reverse=True) if ordinal >= wanted]

    def start(self, ordinal: int, after_s: float = 0.0) -> None:
        """Creates a pod that is ready after its start, which begins after so many seconds."""
        self.count()
        pod = self._create(ordinal)
        pod.timer = self._loop.call_later(after_s + self._start_s, self._ready, pod)

    def remove(self, pod: Pod) -> None:
        """Takes a pod away, dead or drained."""
        self.count()
        if pod.timer is not None:
            pod.timer.cancel()
        if self.pods.get(pod.ordinal) is pod:
            del self.pods[pod.ordinal]

    def _create(self, ordinal: int) -> Pod:
        self._boots += 1
        node = f"{self.role}-node-{ordinal // self._per_node}"
        pod = self.pods[ordinal] = Pod(f"{self.role}-{ordinal}", ordinal, self._boots, node)
        return pod

    def _ready(self, pod: Pod) -> None:
        pod.ready_at = self._loop.time()
        pod.timer = None
        pod.ready.set()
        self._joined(pod)
