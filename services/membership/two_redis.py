"""Connections to the first of two Redis that answers, so that a cluster can move from one to the other."""

from __future__ import annotations

import time
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

AGAIN_S = 3.0  # until the first is tried again once it has not answered


class FirstThatAnswers(ConnectionPool):
    """A pool that passes on connections of two: of the second while the first does not connect or lets nobody in.

    A command that fails on a connection of the first is not repeated on the second: the caller's next one goes there.
    """

    def __init__(self, first: ConnectionPool, second: ConnectionPool) -> None:
        super().__init__(first.connection_class, **first.connection_kwargs)
        self._first, self._second = first, second
        self._again_at = 0.0
        self._at_second = False
        self._pools: dict[AbstractConnection, ConnectionPool] = {}  # of the connections in use

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        if time.monotonic() >= self._again_at:
            # Set before the call: the caller's own limit may end it, and then the next one is not to try again at once.
            self._again_at = time.monotonic() + AGAIN_S
            try:
                connection = await self._of(self._first)
            except (RedisError, OSError, TimeoutError) as error:
                self._note(at_second=True, why=f"{type(error).__name__}: {error}")
            else:
                self._again_at = 0.0
                self._note(at_second=False)
                return connection
        return await self._of(self._second)

    async def release(self, connection: AbstractConnection) -> None:
        pool = self._pools.pop(connection, None)
        if pool is not None:
            await pool.release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        for pool in (self._first, self._second):
            await pool.disconnect(inuse_connections)

    async def aclose(self) -> None:
        await self.disconnect()

    async def _of(self, pool: ConnectionPool) -> AbstractConnection:
        untyped: Any = pool
        connection: AbstractConnection = await untyped.get_connection()
        self._pools[connection] = pool
        return connection

    def _note(self, *, at_second: bool, why: str = "") -> None:
        if at_second and not self._at_second:
            log.warning("redis does not answer: the one of CARACAL_REDIS_NEXT_URL is asked", error=why)
        elif self._at_second and not at_second:
            log.info("redis answers again: the one of CARACAL_REDIS_NEXT_URL is asked no more")
        self._at_second = at_second
