"""Decides who may use a router: by the keys of a file, which is read again when it changes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.router.access.errors import Forbidden, Unauthorized, quota_exceeded
from services.router.access.keys import ApiKey, ApiKeys, KeysError
from services.router.access.quotas import Bucket, Quota
from services.router.requests.callers import Caller

log = structlog.get_logger(__name__)

# Probes and load balancers have no key; a browser has none for the console's files, whose page asks for it.
OPEN = re.compile(r"/(health|ready|ping|console|console/(?!api/)[\w.-]*)")
ADMIN = re.compile(r"/(metrics|load|cluster|console(/.*)?)", re.DOTALL)
RELOAD_S = 2.0  # between two looks at the file
QUIET_S = 60.0  # between two log lines that count requests without a key
MOST_CHARS = 512  # of a key; a longer one is none of ours
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(eq=False)
class KeyUse:
    """One request that uses a key's quota, from `begin` to `end`."""

    key: ApiKey
    quota: Quota
    reserved: int = 0
    used: int = 0

    def reserve(self, prompt: int, tokens: int) -> None:
        """Takes the tokens that the request may come to, of which its prompts have `prompt`. Raises TooManyRequests."""
        if excess := self.quota.reserve(tokens, time.monotonic()):
            raise quota_exceeded(excess, tokens)
        self.reserved, self.used = tokens, prompt

    def end(self) -> None:
        self.quota.end(self.reserved, self.used, time.monotonic())

    @property
    def tokens_left(self) -> float | None:
        """The tokens that the key has left; None without a limit."""
        bucket = self.quota.tokens
        return bucket.left(time.monotonic()) if bucket.per_minute else None


class Access:
    """Without a file everybody may do everything, and requests are distinguished by their addresses.

    Everything runs on one event loop. `routers`: how many share the quotas.
    """

    def __init__(self, path: Path | None) -> None:
        """Raises KeysError."""
        self._path = path
        self.routers: Callable[[], int] = lambda: 1
        self._seen = self._stamp()  # before the file is read, which may change meanwhile
        self._keys = ApiKeys.read(path) if path else None
        self._fault = ""  # why the file cannot be used now, while the keys are those that it had before
        self._quotas: dict[str, Quota] = {}
        self._denied, self._quiet_until = 0, 0.0
        if self._keys is not None:
            log.info("audit: API keys are read", keys=len(self._keys.keys), admins=self._admins())

    @property
    def outdated(self) -> bool:
        """Whether the file cannot be used now, and the keys are those that it had before."""
        return bool(self._fault)

    @property
    def on(self) -> bool:
        """Whether requests need a key."""
        return self._keys is not None

    def check(self, path: str, headers: Headers) -> ApiKey | None:
        """Returns the key of a request to `path`, as the client wrote it; None where none is needed.

        Raises Unauthorized.
        """
        if self._keys is None or OPEN.fullmatch(path):
            return None
        key = self.find(presented(headers))
        if key is None:
            self._deny(path)
            raise Unauthorized
        return key

    def check_admin(self, path: str, key: ApiKey | None) -> None:
        """Raises Forbidden when the key may not use the route at `path`, as it is routed."""
        if self._keys is None or OPEN.fullmatch(path):
            return
        if ADMIN.fullmatch(path) and (key is None or not key.admin):
            log.warning("audit: denied", key=key.name if key else "", path=path[:200])
            raise Forbidden

    def find(self, keys: Collection[str]) -> ApiKey | None:
        """Returns the one that is valid; None when none is, or several are."""
        if self._keys is None:
            return None
        found = {self._keys.find(key) for key in keys if len(key) <= MOST_CHARS} - {None}
        return found.pop() if len(found) == 1 else None

    def caller(self, key: ApiKey) -> Caller:
        """Who a key stands for: an address cannot have such a name."""
        return Caller(f"key {key.name}", key.weight)

    def begin(self, key: ApiKey) -> KeyUse:
        """Takes on a request, to be ended by the use's `end`. Raises TooManyRequests."""
        now, routers = time.monotonic(), self.routers()
        quota = self._quotas.get(key.name)
        if quota is None:
            quota = self._quotas[key.name] = Quota(key, routers, now)
        quota.update(key, routers, now)
        if excess := quota.begin(now):
            raise quota_exceeded(excess)
        return KeyUse(key, quota)

    def headers(self, key: ApiKey) -> list[tuple[bytes, bytes]]:
        """The headers that say what a key has left, under OpenAI's names."""
        quota = self._quotas.get(key.name)
        if quota is None:
            quota = self._quotas[key.name] = Quota(key, self.routers(), time.monotonic())
        now, buckets = time.monotonic(), {b"requests": quota.requests, b"tokens": quota.tokens}
        limited = [(kind, bucket) for kind, bucket in buckets.items() if bucket.per_minute]
        return [header for kind, bucket in limited for header in _headers(kind, bucket, now)]

    async def watch(self) -> None:
        """Reads the file again when it has changed, until cancelled. One that cannot be used changes nothing."""
        while True:
            await asyncio.sleep(RELOAD_S)
            if self._path is None:
                continue
            if (stamp := await asyncio.to_thread(self._stamp)) == self._seen:
                self._fault = ""  # it is again what it was
                continue
            try:
                self._keys = await asyncio.to_thread(ApiKeys.read, self._path)
            except KeysError as error:
                # To be tried again, whatever the stamp says: what was wrong may be the right to read it.
                if str(error) != self._fault:
                    self._fault = str(error)
                    log.error("audit: API keys are not read again, the old ones stay", reason=self._fault)
                continue
            self._seen, self._fault = stamp, ""
            names = {key.name for key in self._keys.keys}
            self._quotas = {name: quota for name, quota in self._quotas.items() if name in names or quota.open}
            log.info("audit: API keys are read again", keys=len(names), admins=self._admins())

    def _admins(self) -> list[str]:
        return sorted(key.name for key in self._keys.keys if key.admin) if self._keys else []

    def _stamp(self) -> tuple[int, int, int]:
        """What changes with the file, also when a Secret's link is pointed elsewhere."""
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return 0, 0, 0
        return (status.st_mtime_ns, status.st_ino, status.st_size) if status else (0, 0, 0)

    def _deny(self, path: str) -> None:
        self._denied += 1
        if time.monotonic() >= self._quiet_until:
            log.warning("audit: requests without a valid API key", count=self._denied, last_path=path[:200])
            self._denied, self._quiet_until = 0, time.monotonic() + QUIET_S


def presented(headers: Headers) -> set[str]:
    """Returns the keys that a request's headers present: clients and proxies send fillers, too."""
    found: set[str] = set()
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name == b"authorization":
            scheme, _, rest = text.partition(" ")
            found |= {rest.strip()} if scheme.lower() == "bearer" else set()
        elif name == b"x-api-key":
            found.add(text)
    return found - {""}


def _headers(kind: bytes, bucket: Bucket, now: float) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % bucket.per_minute),
        (b"x-ratelimit-remaining-" + kind, b"%d" % bucket.left(now)),
        (b"x-ratelimit-reset-" + kind, b"%.3fs" % bucket.full_in_s(now)),
    ]
