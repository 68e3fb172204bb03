"""One process's connection to a cluster's Redis: bounded in time, and records signed with the cluster key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from redis.exceptions import RedisError, ResponseError

from services.membership.bad_records import BadRecords
from services.membership.connection import open_redis
from services.security.cluster_key import NO_KEY, ClusterKey
from services.security.records import BadRecord, signed, verified

CALL_S = 1.0
COUNTER = "counter"


class RedisUnavailable(Exception):
    """Expected: Redis does not answer. Every process keeps its last table and goes on serving."""


class RedisClient:
    """Calls raise only RedisUnavailable. A key of another type than ours counts as a bad record."""

    def __init__(self, redis_url: str, key: ClusterKey = NO_KEY, next_url: str = "") -> None:
        self.redis = open_redis(redis_url, CALL_S, next_url)
        self.bad = BadRecords()
        self._key = key

    def signed(self, name: str, value: str | bytes) -> bytes:
        """The record to store under `name`: a key, or a key and a field of its hash as `field_name` gives it."""
        return signed(self._key, name, value.encode() if isinstance(value, str) else value)

    def verified(self, kind: str, name: str, record: object) -> bytes | None:
        """The value of a record as it was read; None when there is none, or none of ours."""
        try:
            if isinstance(record, ResponseError):
                raise BadRecord(f"it is of another type: {record}")
            return None if record is None else verified(self._key, name, _bytes(record))
        except BadRecord as error:
            self.bad.note(kind, name, str(error))
            return None

    async def read(self, command: Any) -> Any:
        """The reply to a command, or its error when the key is of another type. Raises RedisUnavailable."""

        async def reply() -> Any:
            try:
                return await command
            except ResponseError as error:
                if is_wrong_type(error):
                    return error
                raise

        return await bounded(reply(), 2 * CALL_S)

    async def write(self, fill: Callable[[Any], None], types: Mapping[str, str] | None = None) -> list[Any]:
        """Runs the commands that `fill` puts into a transaction; returns their replies. Raises RedisUnavailable.

        `types`: of the keys that the commands need to be of a type of Redis, or a COUNTER. One that is of another,
        which nobody of ours has written, is deleted.
        """
        for again in (True, False):
            pipe = self.redis.pipeline()
            fill(pipe)
            replies = await bounded(pipe.execute(raise_on_error=False), 2 * CALL_S)
            errors = [reply for reply in replies if isinstance(reply, RedisError)]
            if not errors:
                return list(replies)
            if not again or not all(map(is_wrong_type, errors)):
                raise RedisUnavailable(f"{type(errors[0]).__name__}: {errors[0]}")
            for key, kind in (types or {}).items():
                if await self._is_of_another(key, kind):
                    self.bad.note("key", key, f"deleted, it is no {kind}")
                    await bounded(self.redis.delete(key), 2 * CALL_S)
        return []

    async def _is_of_another(self, key: str, kind: str) -> bool:
        found = (await bounded(self.redis.type(key), 2 * CALL_S)).decode()
        if kind != COUNTER or found != "string":
            return found not in ("none", kind)
        text = await bounded(self.redis.getrange(key, 0, 20), 2 * CALL_S)
        return not (text.isdigit() and len(text) < 19)

    async def close(self) -> None:
        await self.redis.aclose()


def field_name(key: str, field: str) -> str:
    """The name under which a field of a hash is signed."""
    return f"{key} {field}"


def is_wrong_type(error: object) -> bool:
    """Whether a command failed since its key holds something else."""
    return isinstance(error, ResponseError) and ("WRONGTYPE" in str(error) or "not an integer" in str(error))


def _bytes(record: object) -> bytes:
    if not isinstance(record, bytes):
        raise BadRecord(f"it is a {type(record).__name__}")
    return record


async def bounded(command: Any, seconds: float) -> Any:
    """Returns the result of a command to Redis. Raises RedisUnavailable when there is none after `seconds`."""
    task = asyncio.current_task()
    cancels = task.cancelling() if task else 0
    try:
        async with asyncio.timeout(seconds):
            return await command
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisUnavailable(f"{type(error).__name__}: {error}") from None
    except RuntimeError as error:  # uvloop's, when a connection is used that was just reset
        if "closed" not in str(error):
            raise
        raise RedisUnavailable(f"{type(error).__name__}: {error}") from None
    finally:
        # Before Python 3.12 wait_for, which the client uses, drops a cancellation that comes with its result.
        if task and task.cancelling() > cancels:
            raise asyncio.CancelledError
