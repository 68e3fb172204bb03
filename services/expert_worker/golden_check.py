"""Has one loaded expert after another answer the golden row again: a worker whose arithmetic fails finds it out itself.

A replica finds it as well, but of two that always differ nobody else can say which is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from services.checkpoint.scrub import memory_checksum
from services.expert_worker.experts import Experts
from services.membership.quarantine import Quarantine
from services.membership.redis import RedisUnavailable

log = structlog.get_logger(__name__)

PERIOD_S = 5.0  # between two experts
FAILURES = 2  # in a row, of one expert


class GoldenCheck:
    """One worker's. When an expert fails again and again, the worker has itself left out."""

    def __init__(self, experts: Experts, quarantine: Quarantine, boot_id: str, period_s: float = PERIOD_S) -> None:
        self._experts, self._quarantine, self._boot_id, self._period_s = experts, quarantine, boot_id, period_s
        self._left: list[tuple[int, int]] = []  # of this round
        self.checked = 0  # experts, each time counted
        self.reason = ""  # why the worker is left out

    async def run(self) -> None:
        """Checks until cancelled; with a period of 0 nothing."""
        while self._period_s:
            await asyncio.sleep(self._period_s)
            if not self._left:
                self._left = sorted(self._experts.loaded, reverse=True)
            if self._left and not await asyncio.to_thread(self._is_right, *self._left.pop()):
                log.error("this worker computes wrongly", reason=self.reason)
            if self.reason:
                with contextlib.suppress(RedisUnavailable):  # it is tried again after the next expert
                    await self._quarantine.add(self._boot_id, self.reason)
                    break
        await asyncio.Event().wait()  # the end of a background task would end the process

    def _is_right(self, layer: int, expert: int) -> bool:
        """Whether it answers as it did when it was loaded; weights that have changed are read again, and do not count.

        Raises CheckpointError when they cannot be.
        """
        for _ in range(FAILURES):
            self.checked += 1
            if self._experts.answers_golden_row(layer, expert):
                return True
            region = self._experts.regions.get((layer, expert))
            if region is not None and memory_checksum(region.tensors) != region.checksum:
                self._experts.repair(region)
        self.reason = f"expert {expert} of layer {layer} answers the golden row with other bits than when it was loaded"
        return False
