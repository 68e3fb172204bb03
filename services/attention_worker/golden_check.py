"""Has golden tokens computed again while the worker serves: one that has begun to compute wrongly finds it out itself.

Another worker finds it as well, but where one serves alone nobody can compute its answers again. The engine's thread
does it between two steps, a layer at a time, so it is done by the cores and from the weights that answer requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import structlog
import torch

from services.attention_worker.golden import GoldenTokens, InParts
from services.attention_worker.loading import Loaded, Servable
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.weights_scrub import compare
from services.checkpoint.scrub import Region
from services.membership.quarantine import Quarantine
from services.membership.redis import RedisUnavailable
from services.membership.strikes import WINDOW_S, Strikes

log = structlog.get_logger(__name__)

PAUSE_S = 0.05  # between two parts, at least
CLOSE_SHARE = 0.02  # of the time, for WINDOW_S after a difference
FAILED_S = 60.0  # after a part that could not be computed
LOOK_S = 0.5  # between two looks at what the engine's thread has found


class GoldenCheck:
    """One worker's. Whose golden tokens differ twice within WINDOW_S has itself left out; then it is not called again.

    `tokens`: None if they are not to be computed. `share` of the time of the thread that calls it.
    """

    _part: int  # of this round, the next one
    _parts: Iterator[int]

    def __init__(
        self,
        tokens: GoldenTokens | None,
        regions: Mapping[tuple[int, int], Region],
        share: float,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._tokens, self._regions, self._share, self._pause_s = tokens, regions, share, pause_s
        self._expected = _all_of(tokens) if tokens is not None else []
        self._strikes: Strikes[str] = Strikes()
        self._differed_s = -math.inf  # when it last did
        self._due = 0.0 if tokens is not None else math.inf
        self._wrong_part = 0
        self._restart()
        self.rounds = self.differences = 0
        self.seconds = 0.0  # that it took
        self.reason = ""  # why the worker is left out

    def __call__(self) -> float:
        """Computes the next part if it is due; returns the seconds until the one after it is.

        For the engine's thread, between two steps.
        """
        now = time.perf_counter()
        if now < self._due:
            return self._due - now
        pause_s = self._pause_s
        try:
            self._advance()
        except RuntimeError as error:  # torch's, of memory for example: the next step may do well
            log.warning("the golden tokens could not be computed", error=str(error))
            self._restart()
            pause_s = FAILED_S
        took_s = time.perf_counter() - now
        self.seconds += took_s
        share = self._share if now > self._differed_s + WINDOW_S else max(self._share, CLOSE_SHARE)
        pause_s = max(pause_s, took_s * (1 / share - 1))
        self._due = math.inf if self.reason else now + took_s + pause_s
        return pause_s

    async def run(self, quarantine: Quarantine, boot_id: str, scrubs: bool) -> None:
        """Waits until cancelled, and has the worker left out once it is found to compute wrongly.

        `scrubs`: whether weights that have changed end it. Raises WeightsChanged.
        """
        while not self.reason:  # noqa: ASYNC110 - another thread's state
            await asyncio.sleep(LOOK_S)
        log.error("this worker computes wrongly", reason=self.reason)
        while True:
            with contextlib.suppress(RedisUnavailable):
                await quarantine.add(boot_id, self.reason)
                break
            await asyncio.sleep(LOOK_S)
        region = self._regions.get((0, self._wrong_part))
        if scrubs and region is not None:
            await compare(region)
        await asyncio.Event().wait()  # the end of a background task would end the process

    @torch.inference_mode()
    def _advance(self) -> None:
        part = self._part
        self._part = part + 1
        if next(self._parts) != self._expected[part]:
            self._differs(part)
        elif self._part == len(self._expected):
            self.rounds += 1
            self._restart()

    def _differs(self, part: int) -> None:
        region, now = self._regions.get((0, part)), time.perf_counter()
        name = region.name if region is not None else f"part {part} of the model"
        self.differences += 1
        self._differed_s = now
        log.error("the golden tokens gave other bits than before the worker served", part=name)
        if self._strikes.add("", now):
            self._wrong_part = part
            self.reason = f"it computes the golden tokens with other bits than when it joined, in {name}"
        self._restart()

    def _restart(self) -> None:
        self._part, self._parts = 0, iter(()) if self._tokens is None else self._tokens.parts()


def golden_check_of(settings: AttentionSettings, loaded: Loaded[Servable]) -> GoldenCheck:
    """The check of a worker that does not serve yet: what its golden tokens give now is right. It may compute none."""
    model, tokens, reason = loaded.model, None, ""
    if not settings.golden_share:
        reason = "CARACAL_GOLDEN_SHARE is 0"
    elif settings.tp > 1:
        reason = f"CARACAL_TP is {settings.tp}, and ranks can only take whole steps"
    elif not isinstance(model, InParts):
        reason = "the model cannot stop between two layers"
    else:
        tokens = GoldenTokens(model, model.config, settings.page_size)
    if reason:
        log.info("the golden tokens are not computed again while this worker serves", reason=reason)
    return GoldenCheck(tokens, loaded.regions, settings.golden_share)


@torch.inference_mode()
def _all_of(tokens: GoldenTokens) -> list[int]:
    return list(tokens.parts())
