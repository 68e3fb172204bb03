"""How much a key may use: buckets that fill by the minute, and a count of open requests. Pure, without a clock.

Each of a cluster's routers grants its share, so that no request waits for another router or for Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.router.access.keys import ApiKey

MINUTE_S = 60.0


class Bucket:
    """Holds what may be used at once, at most a minute's worth. `per_minute` 0 = any amount."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._at = per_minute, now

    def change(self, per_minute: float, now: float) -> None:
        """Takes another rate, and keeps what is used up."""
        self._fill(now)
        self._level += per_minute - self.per_minute
        self.per_minute = per_minute

    def left(self, now: float) -> float:
        self._fill(now)
        return max(0.0, self._level)

    def lacks_s(self, amount: float, now: float) -> float:
        """Returns in how many seconds so much can be taken: 0 = now, infinity = never."""
        if not self.per_minute or amount <= 0:
            return 0.0
        if amount > self.per_minute:
            return float("inf")
        self._fill(now)
        return max(0.0, (amount - self._level) * MINUTE_S / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """Takes an amount, or gives back a negative one."""
        if self.per_minute:
            self._fill(now)
            self._level = min(self.per_minute, self._level - amount)

    def full_in_s(self, now: float) -> float:
        self._fill(now)
        return (self.per_minute - self._level) * MINUTE_S / self.per_minute if self.per_minute else 0.0

    def _fill(self, now: float) -> None:
        self._level = min(self.per_minute, self._level + max(0.0, now - self._at) * self.per_minute / MINUTE_S)
        self._at = now


@dataclass(frozen=True, slots=True)
class Excess:
    """Why a request is too much for its key. `retry_s`: when it may be sent again, None = never as it is."""

    limit: str
    most: float
    retry_s: float | None


class Quota:
    """What one key has used at this router, one of `routers`."""

    def __init__(self, key: ApiKey, routers: int, now: float) -> None:
        self._key, self._routers = key, max(1, routers)
        self.open = 0
        self.requests = Bucket(key.requests_per_minute / self._routers, now)
        self.tokens = Bucket(key.tokens_per_minute / self._routers, now)

    def update(self, key: ApiKey, routers: int, now: float) -> None:
        """Takes a key's new limits, or another number of routers."""
        routers = max(1, routers)
        if (key, routers) == (self._key, self._routers):
            return
        self._key, self._routers = key, routers
        self.requests.change(key.requests_per_minute / routers, now)
        self.tokens.change(key.tokens_per_minute / routers, now)

    def begin(self, now: float) -> Excess | None:
        """Takes on one more request, to be ended by `end`; or returns why not."""
        most_open = -(-self._key.concurrent // self._routers)
        if most_open and self.open >= most_open:
            return Excess("concurrent", self._key.concurrent, 1.0)
        # A share of less than one request a minute still lets one through, and then takes longer to fill.
        if wait_s := self.requests.lacks_s(min(1.0, self.requests.per_minute), now):
            return Excess("requests_per_minute", self._key.requests_per_minute, wait_s)
        self.requests.take(1.0, now)
        self.open += 1
        return None

    def reserve(self, tokens: int, now: float) -> Excess | None:
        """Takes the tokens that a request may come to; or returns why not.

        One that is more than this router's share, and not more than the key has, waits until the share is whole, and
        then takes it beyond what it has: how many routers there are decides on no request.
        """
        most = self._key.tokens_per_minute
        if most and tokens > most:
            return Excess("tokens_per_minute", most, None)
        if wait_s := self.tokens.lacks_s(min(tokens, self.tokens.per_minute), now):
            return Excess("tokens_per_minute", most, wait_s)
        self.tokens.take(tokens, now)
        return None

    def end(self, reserved: int, used: int, now: float) -> None:
        """Ends a request, and gives back the tokens that it has not used."""
        self.open -= 1
        self.tokens.take(used - reserved, now)
