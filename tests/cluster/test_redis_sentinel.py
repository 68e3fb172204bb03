"""A Redis that Sentinels know: leases go on at the new master after the old one has died. All servers are real."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from services.local.redis_server import binary
from services.membership.redis import Membership, RedisUnavailable
from services.process.addresses import free_port

pytestmark = pytest.mark.processes

PASSWORD = "p@ss/w?rd#"
FAILOVER_S = 30.0


@dataclass
class Servers:
    """A master, a replica, and the Sentinel that watches them."""

    master: subprocess.Popen[bytes]
    sentinel_port: int


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        common = ["--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), "--repl-diskless-sync-delay", "0"]
        secret = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        replica_of = ["--replicaof", "127.0.0.1", str(ports[0])]
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {ports[2]}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor lead 127.0.0.1 {ports[0]} 1\n"
            f'sentinel auth-pass lead "{PASSWORD}"\nsentinel down-after-milliseconds lead 500\n'
            "sentinel failover-timeout lead 3000\n"
        )
        running = list[subprocess.Popen[bytes]]()

        def start(*words: str) -> None:
            running.append(stack.enter_context(subprocess.Popen([binary(), *words], stdout=subprocess.DEVNULL)))

        try:
            start("--port", str(ports[0]), *common, *secret)
            start("--port", str(ports[1]), *common, *secret, *replica_of)
            _follows(ports[1])  # a Sentinel that has asked the master before knows the replica only ten seconds later
            start(str(config), "--sentinel")
            yield Servers(running[0], ports[2])
        finally:
            for each in running:
                each.kill()


def _follows(port: int) -> None:
    """Waits until a replica has its master's data."""
    client, end = redis.Redis(port=port, password=PASSWORD), time.monotonic() + FAILOVER_S
    while True:
        with suppress(redis.RedisError):
            if client.info("replication")["master_link_status"] == "up":
                return
        assert time.monotonic() < end, "the replica does not follow"
        time.sleep(0.05)


async def _until(call: object, timeout_s: float = FAILOVER_S) -> None:
    assert callable(call)
    last, end = "", time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            await call()
            return
        except RedisUnavailable as error:
            last = str(error)
            await asyncio.sleep(0.1)
    raise AssertionError(last)


def test_a_new_master_is_found(servers: Servers) -> None:
    async def survive() -> None:
        membership = Membership(
            f"redis+sentinel://default:p%40ss%2Fw%3Frd%23@127.0.0.1:1,127.0.0.1:{servers.sentinel_port}/lead/0"
        )
        try:
            await _until(lambda: membership.set_desired("expert", 3))
            await asyncio.sleep(2)  # until the Sentinel has asked the replica, and that one has the count
            servers.master.kill()
            with pytest.raises(RedisUnavailable):
                await membership.set_desired("expert", 4)
            await _until(lambda: membership.set_desired("expert", 5))
            assert (await membership.desired())["expert"] == 5
        finally:
            await membership.close()

    asyncio.run(survive())


def test_an_unknown_master_is_unavailable(servers: Servers) -> None:
    async def ask() -> None:
        membership = Membership(f"redis+sentinel://127.0.0.1:{servers.sentinel_port}/other")
        try:
            with pytest.raises(RedisUnavailable, match="No master found for 'other'"):
                await membership.desired()
        finally:
            await membership.close()

    asyncio.run(ask())
