"""Why an expert worker is left out, where its weights differ in a few tensors from those that the cluster serves.

A class has a sample of every tensor, so a worker whose sample differs gets no table and no experts. Here it finds out,
from what the workers that serve have left in Redis, whether that is since a few tensors of its files are damaged.
"""

from __future__ import annotations

import structlog

from services.checkpoint.reader import Checkpoint
from services.membership.agreed_weights import Weights, damage
from services.membership.redis import Membership

log = structlog.get_logger(__name__)

LOOK_S = 2.0


class SampleCheck:
    """The check of one worker. `reason`: which file and tensor differ, if some do; then the worker must not serve."""

    def __init__(self, membership: Membership, checkpoint: Checkpoint, numerics_class: str) -> None:
        self._membership, self._checkpoint, self._class = membership, checkpoint, numerics_class
        self._seen = 0  # the epoch of the last table that was looked at
        self.reason = ""

    async def look(self, epoch: int) -> bool:
        """Compares once, or offers the own samples if the worker serves by a table of this epoch; returns if it did.

        Raises RedisUnavailable.
        """
        if epoch:
            self.reason = ""
            await self._membership.weights.offer(self._class, Weights(samples=self._checkpoint.samples))
            return True
        published = await self._membership.table_epoch()
        table = await self._membership.read_table() if published != self._seen else None
        if table is None:
            return False
        self._seen = published
        stored = await self._membership.weights.read(table.numerics_class)
        checkpoint = self._checkpoint
        before, same = self.reason, table.numerics_class == self._class
        names = checkpoint.sampled_names()
        self.reason = "" if same else damage(names, checkpoint.file_of, checkpoint.samples, stored.samples)
        if self.reason and self.reason != before:
            log.warning("this worker's weights are not those of the others: it is left out", reason=self.reason)
        return False
