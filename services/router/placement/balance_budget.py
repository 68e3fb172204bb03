"""How many experts workers may load for balance: bytes per minute, saved up for a minute at most. Pure."""

from __future__ import annotations

MINUTE_S = 60.0


class BalanceBudget:
    """`expert_bytes` are read for each expert that a worker loads; `now` is any clock that advances."""

    def __init__(self, bytes_per_minute: float, expert_bytes: int, now: float) -> None:
        self._per_s = bytes_per_minute / MINUTE_S
        self._expert_bytes = expert_bytes
        self._most = max(bytes_per_minute, 2.0 * expert_bytes) if bytes_per_minute else 0.0  # a swap loads two
        self._saved, self._at = min(bytes_per_minute, self._most), now

    def moves(self, now: float) -> int:
        """How many experts may be loaded now."""
        self._save(now)
        return max(0, int(self._saved // self._expert_bytes))

    def spend(self, experts: int, now: float) -> None:
        """Takes what was loaded. Loads that could not wait may overdraw it, by a minute's worth at most."""
        self._save(now)
        self._saved = max(-self._most, self._saved - experts * self._expert_bytes)

    def _save(self, now: float) -> None:
        self._saved = min(self._most, self._saved + (now - self._at) * self._per_s)
        self._at = now
