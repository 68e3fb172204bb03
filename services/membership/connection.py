"""Opens the Redis that a URL names: itself, or as the master that Sentinels know."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis.asyncio as redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

from services.membership.two_redis import FirstThatAnswers
from services.process.redis_url import SENTINEL, is_sentinel, sentinels

OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


def open_redis(url: str, timeout_s: float, next_url: str = "") -> redis.Redis:
    """A client of the Redis at the URL, which has passed `url_violation`; it connects when it is used.

    With `next_url`, of the Redis there while the first does not answer.
    """
    if not next_url:
        return _open(url, timeout_s)
    first, second = _open(url, timeout_s).connection_pool, _open(next_url, timeout_s).connection_pool
    return redis.Redis.from_pool(FirstThatAnswers(first, second))


def _open(url: str, timeout_s: float) -> redis.Redis:
    if not is_sentinel(url):
        return redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    parts = urlsplit(url)
    timeouts: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    # Else the client asks a dead Sentinel for longer than a call may take before it asks the next one.
    timeouts["retry"] = Retry(NoBackoff(), 0)
    query = dict(parse_qsl(parts.query))
    name, _, database = unquote(parts.path).strip("/").partition("/")
    # Read by the client, as those of any other URL: what a connection is, without where it goes.
    rest = "&".join(one for one in parts.query.split("&") if one.partition("=")[0] not in OF_SENTINELS)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    plain = f"{parts.scheme.removesuffix(SENTINEL)}://{user}h/{database}?{rest}"
    given: dict[str, Any] = {**parse_url(plain), **timeouts}
    tls = given.pop("connection_class", None) is SSLConnection
    for where in ("host", "port"):
        given.pop(where, None)
    of_sentinels = {ours: query[theirs] for theirs, ours in OF_SENTINELS.items() if theirs in query} | timeouts
    if tls:
        of_sentinels |= {name: value for name, value in given.items() if name.startswith("ssl_")} | {"ssl": True}
    found: Any = Sentinel(sentinels(url), sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
    more = {"connection_class": SentinelManagedSSLConnection} if tls else {}
    client: redis.Redis = found.master_for(name, **given, **more)
    return client
