"""Whether an attention worker has read the same weights as the others: it serves by no table before that is known.

The workers that serve decide; while there are none, what was agreed on before, in Redis; and the first one if nothing
was. A worker that differs says in its lease, and in its log, which file and tensor are not as the others read them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from services.attention_worker.loading import ReadWeights
from services.membership.agreed_weights import Weights, damage
from services.membership.numerics_class import fits
from services.membership.redis import Membership, RedisUnavailable

log = structlog.get_logger(__name__)

RETRY_S, LOOK_S = 0.2, 2.0  # between two looks while Redis is away, and while the worker does not serve
NOT_COMPARED = "its weights have not been compared with those of the others yet"


class WeightsAgreement:
    """Whether one worker may serve: `numerics_class` is its own, `table_class` the part of it that tables have.

    `notify` is called with why it must not serve whenever that changes; empty: it may. `damaged`: which of its tensors
    differ from those of the published table's class, where a few do.
    """

    def __init__(
        self,
        membership: Membership,
        boot_id: str,
        numerics_class: str,
        table_class: str,
        weights: ReadWeights,
        notify: Callable[[str], None],
    ) -> None:
        self._membership, self._boot_id = membership, boot_id
        self._numerics_class, self._table_class = numerics_class, table_class
        self._weights, self._notify = weights, notify
        self._reason = self.damaged = ""
        self._say(NOT_COMPARED)

    async def compare(self) -> bool:
        """Looks once; returns whether the worker may serve. Raises RedisUnavailable."""
        others = [one for one in await self._membership.workers("attention") if one.boot_id != self._boot_id]
        serving = _most(
            one.numerics_class for one in others if one.epoch and fits(one.numerics_class, self._table_class)
        )
        stored = await self._membership.weights.read(self._table_class)
        agreed = serving or stored.attention_class
        if agreed in ("", self._numerics_class):
            own = Weights(attention_class=self._numerics_class, attention=self._weights.checksums)
            await self._membership.weights.offer(self._table_class, own)
            if not agreed:  # another one may have been first
                stored = await self._membership.weights.read(self._table_class)
                agreed = stored.attention_class or self._numerics_class
        self._say("" if agreed == self._numerics_class else self._difference(agreed, stored, bool(serving)))
        return not self._reason

    async def run(self, has_table: Callable[[], bool]) -> None:
        """Looks until the worker may serve, and while it has no table, whether one is published for others.

        Runs until cancelled.
        """
        agreed = False
        while not (agreed and has_table()):
            try:
                agreed = agreed or await self.compare()
                if agreed:
                    await self._compare_with_table()
                await asyncio.sleep(LOOK_S)
            except RedisUnavailable:
                await asyncio.sleep(RETRY_S)
        self.damaged = ""
        await asyncio.Event().wait()

    async def _compare_with_table(self) -> None:
        """A table may be of a class that differs since a few of this worker's tensors do."""
        table = await self._membership.read_table() if await self._membership.table_epoch() else None
        if table is None or fits(self._numerics_class, table.numerics_class):
            self.damaged = ""
            return
        before, weights = self.damaged, self._weights
        stored = await self._membership.weights.read(table.numerics_class)
        self.damaged = damage(weights.names, weights.file_of, weights.checksums, stored.attention)
        if self.damaged and self.damaged != before:
            self._warn(self.damaged)

    def _difference(self, agreed: str, stored: Weights, served: bool) -> str:
        """In words, how the worker differs from those of the agreed class."""
        named = ""
        if stored.attention_class == agreed:
            weights = self._weights
            named = damage(weights.names, weights.file_of, weights.checksums, stored.attention)
            if not named and list(stored.attention) == list(weights.checksums):
                return "it has read the same weights as the others, and computes other bits with them"
        if served:
            return named or f"its weights are not those of the workers that serve, of numerics class {agreed}"
        where = f"redis has them in the hash {self._membership.weights.key(self._table_class)}"
        return f"{named or 'its weights are not those agreed on'} ({where})"

    def _say(self, reason: str) -> None:
        if reason == self._reason:
            return
        self._reason = reason
        if reason and reason != NOT_COMPARED:
            self._warn(reason)
        self._notify(reason)

    @staticmethod
    def _warn(reason: str) -> None:
        log.warning("this worker's weights are not those of the others: it does not serve", reason=reason)


def _most(classes: Iterable[str]) -> str:
    """The class that most have; empty without any."""
    counts = Counter(classes)
    return max(sorted(counts), key=lambda one: counts[one], default="")
