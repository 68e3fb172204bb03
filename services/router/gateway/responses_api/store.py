"""Stored responses in Redis, under the cluster's prefix, so that any router can go on with a conversation.

They expire, and take no more memory than they may: the oldest go first. Redis is the cluster's own, and full it would
stop the cluster's leases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from services.membership.client import RedisUnavailable, bounded
from services.membership.connection import open_redis
from services.router.access.owner import owner
from services.router.gateway.off_loop import off_loop
from services.router.gateway.responses_api.records import BadRecord, Record
from services.router.requests.errors import InvalidRequest, RouterError
from services.security.cluster_key import NO_KEY, ClusterKey
from services.security.records import BadRecord as Unsigned
from services.security.records import signed, verified

log = structlog.get_logger(__name__)

ID = re.compile(r"resp_[0-9a-f]{16,64}")
CALL_S = 2.0
MAX_CHAIN = 1000  # responses that one continues

# KEYS: record, index (by time of expiry in ms), sizes. ARGV: id, bytes, TTL in s, limit in bytes, prefix of records.
# Redis has no cluster mode here, so the script may touch records that are not among its keys.
WRITE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function forget(id)
  local size = redis.call('HGET', KEYS[3], id)
  if size then redis.call('HINCRBY', KEYS[3], 'total', -tonumber(size)) end
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('DEL', ARGV[5] .. id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)) do forget(id) end
local size, limit = #ARGV[2], tonumber(ARGV[4])
if size > limit then return 0 end
while tonumber(redis.call('HGET', KEYS[3], 'total') or '0') + size > limit do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  forget(oldest)
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3] * 1000, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], size)
redis.call('HINCRBY', KEYS[3], 'total', size)
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return 1
"""
# KEYS as above. ARGV: id.
DELETE = """
local size = redis.call('HGET', KEYS[3], ARGV[1])
if size then redis.call('HINCRBY', KEYS[3], 'total', -tonumber(size)) end
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
"""
# KEYS: index, sizes. ARGV: TTL in s, prefix of records, ids.
RENEW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for n = 3, #ARGV do
  if redis.call('EXPIRE', ARGV[2] .. ARGV[n], ARGV[1]) == 1 then
    redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1] * 1000, ARGV[n])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
"""


class StoreUnavailable(RouterError):
    """Redis does not answer, and the request needs it."""

    status = 503
    type = "service_unavailable"
    code = "redis_unavailable"
    retry_after_s = 1


class ResponseStore:
    """One router's access to the stored responses. Every call is bounded in time; `param` names who needs it.

    With API keys, a key sees its own responses alone. Calls raise StoreUnavailable.
    """

    def __init__(
        self,
        redis_url: str,
        cluster: str,
        *,
        ttl_s: int,
        memory_mb: int,
        call_s: float = CALL_S,
        key: ClusterKey = NO_KEY,
        next_url: str = "",
    ) -> None:
        self._key = key
        self._prefix = f"{cluster}:response:"
        self._index, self._sizes = f"{cluster}:responses", f"{cluster}:responses:bytes"
        self._ttl_s, self._limit, self._call_s = ttl_s, memory_mb << 20, call_s
        self._redis = open_redis(redis_url, call_s, next_url)

    @property
    def keeps(self) -> bool:
        """Whether responses are stored at all."""
        return self._ttl_s > 0 and self._limit > 0

    async def check(self, param: str) -> None:
        """Raises StoreUnavailable while Redis does not answer."""
        await self._call(self._redis.ping(), param)

    async def read(self, response_id: str, param: str) -> Record | None:
        """Returns a stored response; None when there is none, no longer, or not one that can be read."""
        found = await self._read_all([response_id], param)
        return found[0]

    async def chain(self, response_id: str, param: str) -> list[Record] | None:
        """Returns a response and those that it continues, oldest first; None when one of them is gone.

        All of them are kept for a whole TTL more.
        """
        last = await self.read(response_id, param)
        if last is None:
            return None
        if len(last.before) >= MAX_CHAIN:
            raise InvalidRequest(f"{param}: at most {MAX_CHAIN} responses follow each other.", param=param)
        earlier = await self._read_all(last.before, param) if last.before else []
        records = [record for record in (*earlier, last) if record is not None]
        if len(records) <= len(last.before):
            return None
        ids = [*last.before, response_id]
        keys = [self._index, self._sizes]
        await self._call(self._redis.eval(RENEW, 2, *keys, str(self._ttl_s), self._prefix, *ids), param)
        return records

    async def write(self, record: Record, param: str) -> None:
        """Stores a response. Older ones go if there is no room."""
        response_id = str(record.response["id"])
        record = replace(record, owner=owner.get())
        try:
            data = await off_loop(lambda: signed(self._key, self._prefix + response_id, record.to_bytes()))
        except BadRecord as error:
            raise RouterError(f"The response cannot be stored: {error}.", param=param) from None
        arguments: list[Any] = [response_id, data, str(self._ttl_s), str(self._limit), self._prefix]
        stored = await self._call(self._redis.eval(WRITE, 3, *self._keys(response_id), *arguments), param)
        if not stored:
            raise RouterError("The response cannot be stored: it is larger than all that may be stored.", param=param)

    async def delete(self, response_id: str, param: str) -> bool:
        """Returns whether there was such a response."""
        if await self.read(response_id, param) is None:
            return False
        return bool(await self._call(self._redis.eval(DELETE, 3, *self._keys(response_id), response_id), param))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _read_all(self, ids: Sequence[str], param: str) -> list[Record | None]:
        if not all(ID.fullmatch(one) for one in ids):
            return [None] * len(ids)
        keys = [self._prefix + one for one in ids]
        texts = await self._call(self._redis.mget(keys), param)
        records = await off_loop(_records, self._key, keys, texts)
        return [record if record is not None and record.owner == owner.get() else None for record in records]

    def _keys(self, response_id: str) -> list[str]:
        return [self._prefix + response_id, self._index, self._sizes]

    async def _call(self, command: Any, param: str) -> Any:
        try:
            return await bounded(command, 2 * self._call_s)
        except RedisUnavailable as error:
            log.warning("redis does not answer; stored responses are out of reach", error=str(error))
            raise StoreUnavailable(
                f"{param}: responses are stored in Redis, which does not answer. Requests with store: false and without"
                " previous_response_id do not need it.",
                param=param,
            ) from None


def _records(key: ClusterKey, names: Sequence[str], texts: Sequence[bytes | None]) -> list[Record | None]:
    found: list[Record | None] = []
    for name, text in zip(names, texts, strict=True):
        try:
            found.append(None if text is None else Record.from_bytes(verified(key, name, text)))
        except (BadRecord, Unsigned) as error:
            log.warning("a malformed stored response is ignored", error=str(error))
            found.append(None)
    return found
