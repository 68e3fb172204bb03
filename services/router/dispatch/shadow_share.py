"""Which layers' calls are kept, to be computed again by other workers: a hash of step and layer decides, so that it
takes no clock and no state. Native code does the same (services/attention_worker/native/routes.h)."""

from __future__ import annotations

import torch

ALL = 1 << 32
_MASK = (1 << 64) - 1


def mixed(step: int, layer: int) -> int:
    """SplitMix64's finaliser over both; 32 bits of it."""
    h = step * 0x9E3779B97F4A7C15 + (layer + 1) * 0xD1B54A32D192ED03 & _MASK
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    h = (h ^ h >> 27) * 0x94D049BB133111EB & _MASK
    return (h ^ h >> 31) >> 32


class ShadowShare:
    """The share now: the usual one, or all while somebody is looked at closely. Any thread may read it."""

    def __init__(self, share: float) -> None:
        self.usual = round(share * ALL)
        self._now = self.usual
        self.of_2_32 = torch.tensor([self.usual])  # as native code reads it

    def takes(self, step: int, layer: int) -> bool:
        return self._now > 0 and mixed(step, layer) < self._now

    def raise_to_all(self, raised: bool) -> None:
        """Nothing is raised where the usual share is none."""
        now = ALL if raised and self.usual else self.usual
        if now != self._now:
            self._now = now
            self.of_2_32.fill_(now)
