"""The placement hash in Redis: the main table, its epoch, and `term`, the first epoch of the last leader's term.

Epochs there only rise, whoever writes last: a leader that leads no more writes nothing over what the next one wrote.
"""

from __future__ import annotations

from collections.abc import Callable

from caracal_proto.placement_pb2 import Table
from google.protobuf.message import DecodeError

from services.membership.checks import MAX_EPOCH, table_violation
from services.membership.client import RedisClient, field_name

MAX_TABLE_BYTES = 64 << 20
ATTEMPTS = 3  # to write while others do

# KEYS: hash. ARGV: field, its value as it was read ('' = none), then the fields to write, each with its value.
REPLACE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""


class PlacementHash:
    """One process's access to it. Calls raise RedisUnavailable; what is malformed or not signed counts as none."""

    def __init__(self, client: RedisClient, cluster: str) -> None:
        self._client, self.key = client, f"{cluster}:placement"

    async def epoch(self) -> int:
        """The epoch of the published table, 0 when there is none."""
        return self.number(await self._client.read(self._client.redis.hget(self.key, "epoch"))) or 0

    async def read_table(self) -> Table | None:
        """The published table; None when there is none or it is malformed."""
        data = self._client.verified(
            "table",
            field_name(self.key, "table"),
            await self._client.read(self._client.redis.hget(self.key, "table")),
        )
        if not data:
            return None
        try:
            if len(data) > MAX_TABLE_BYTES:
                raise ValueError(f"longer than {MAX_TABLE_BYTES} bytes")
            table = Table.FromString(data)
            if violation := table_violation(table):
                raise ValueError(violation)
        except (DecodeError, ValueError) as error:
            self._client.bad.note("table", self.key, str(error))
            return None
        return table

    async def write_table(self, table: Table, over: int = 0) -> bool:
        """Publishes a table unless a newer one is there; returns whether it is the published one now.

        `over`: the epoch of one there that the caller has found to be of another cluster.
        """
        stored = await self.epoch()
        if stored > table.epoch and ((there := await self.read_table()) is None or there.epoch != stored):
            over = stored  # it is of no table at all
        values = {"epoch": b"%d" % table.epoch, "table": table.SerializeToString()}
        return await self._replace("epoch", lambda stored: stored <= table.epoch or stored == over, values)

    async def write_term(self, first: int, over: int = 0) -> bool:
        """Writes with which epoch a leader's term begins, before it gives any: no later leader gives one of them.

        Returns False, and writes nothing, where another one has begun that term or a later one. `over`: a term there
        that the caller knows of.
        """
        values = {"term": b"%d" % first}
        return await self._replace("term", lambda stored: stored < first or stored == over, values)

    async def begin_cluster(self) -> None:
        """Says in a Redis that was started for a new cluster that it has lost nothing: no leader has begun."""
        await self._client.write(lambda pipe: pipe.hsetnx(self.key, "term", self._signed("term", b"0")))

    def number(self, record: object, field: str = "epoch") -> int | None:
        """The epoch of the published table, or `term`, as it was read; None for what is none."""
        name = field_name(self.key, field)
        value = self._client.verified("table", name, record)
        number = int(value) if value is not None and value.isdigit() and len(value) < 20 else -1
        if value is not None and not (field != "term") <= number < MAX_EPOCH:
            self._client.bad.note("table", name, "it is no epoch")
            return None
        return number if value is not None else None

    def _signed(self, field: str, value: bytes) -> bytes:
        return self._client.signed(field_name(self.key, field), value)

    async def _replace(self, field: str, may: Callable[[int], bool], values: dict[str, bytes]) -> bool:
        """Writes fields if `may` says so of the number that `field` has, and that is still there; whether it did."""
        fields: list[str | bytes] = []
        for name, value in values.items():
            fields += [name, self._signed(name, value)]
        for _ in range(ATTEMPTS):
            found = await self._client.read(self._client.redis.hget(self.key, field))
            if not may(self.number(found, field) or 0):
                return False
            seen = found if isinstance(found, bytes) else b""
            arguments = [self.key, field, seen, *fields]
            replies = await self._client.write(lambda pipe: pipe.eval(REPLACE, 1, *arguments), {self.key: "hash"})  # noqa: B023 - it is called here
            if replies == [1]:
                return True
        return False
