"""A cluster moves from one Redis to another while it answers. All servers are real."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support.cluster_harness import CALLERS, running_cluster, until

from services.local.redis_server import start_redis
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.membership.two_redis import AGAIN_S
from services.process.addresses import free_port
from services.process.children import Child, end
from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

pytestmark = pytest.mark.processes
RECORD = WorkerRecord(worker_id="expert-0", role="expert", address="127.0.0.1:1", boot_id="b")
Server = tuple[int, Child]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    ports = [free_port() for _ in range(2)]
    children = [start_redis(port, _folder(tmp_path, port)) for port in ports]
    for port in ports:
        until(lambda port=port: _answers(port), "redis does not start")  # type: ignore[misc]
    yield list(zip(ports, children, strict=True))
    for child in children:
        child.signal(signal.SIGCONT)
    end(children, 2)


def _folder(path: Path, port: int) -> Path:
    (made := path / str(port)).mkdir()
    return made


def _answers(port: int) -> bool:
    try:
        return bool(redis.Redis(port=port).ping())
    except redis.RedisError:
        return False


def _client(server: Server) -> Any:
    """Untyped, as what it says of its commands is."""
    return redis.Redis(port=server[0])


def _url(server: Server) -> str:
    return f"redis://127.0.0.1:{server[0]}/0"


@asynccontextmanager
async def _member(servers: list[Server]) -> AsyncIterator[Membership]:
    membership = Membership(_url(servers[0]), next_url=_url(servers[1]))
    try:
        yield membership
    finally:
        await membership.close()


async def _soon(call: Callable[[], Awaitable[None]], seconds: float) -> None:
    end_at = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except RedisUnavailable:
            assert time.monotonic() < end_at, "neither of the two answers"


@pytest.mark.parametrize("how", ["killed", "stopped", "closed"])
def test_the_second_is_asked_while_the_first_does_not_answer(servers: list[Server], how: str) -> None:
    async def scenario() -> None:
        first, second = (_client(server) for server in servers)
        async with _member(servers) as membership:
            await membership.announce(RECORD)
            assert second.keys("*worker*") == []
            if how == "closed":
                first.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
                first.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            else:
                servers[0][1].signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            await _soon(lambda: membership.announce(RECORD), 10)
            assert [record.worker_id for record in await membership.workers("expert")] == ["expert-0"]
            assert second.keys("*worker*")
            if how == "killed":
                return
            if how == "closed":
                first.execute_command("AUTH", "secret")
                first.execute_command("ACL", "SETUSER", "default", "nopass")
            servers[0][1].signal(signal.SIGCONT)
            second.flushall()
            await asyncio.sleep(AGAIN_S + 0.1)
            await membership.announce(RECORD)
            assert second.keys() == []

    asyncio.run(scenario())


def test_streams_go_on_while_a_cluster_moves(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one stands still; leases, the table and who leads are at the next one then."""
    monkeypatch.setenv("CARACAL_REDIS_NEXT_URL", _url(servers[1]))
    moved = _client(servers[1])
    with contextmanager(running_cluster)(tmp_path / "cluster", link="native") as cluster:
        streams = cluster.streams()
        streams.wait_for_tokens(20 * CALLERS)
        old = cluster.local.children["redis"]
        old.signal(signal.SIGSTOP)
        try:
            led = {b"caracal:leader", b"caracal:placement"}
            until(lambda: led <= set(moved.keys()), "nobody leads at the next one")
            until(lambda: len(moved.keys("caracal:worker:*")) == 3, "not all have a lease at the next one")
            streams.wait_for_tokens(20 * CALLERS)
        finally:
            old.signal(signal.SIGCONT)
        for answers in streams.finish():
            assert all(stream.checksums == answers[0].checksums for stream in answers)
            assert all(stream.finish_reason == "length" for stream in answers)


def test_a_bad_url_of_the_next_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CARACAL_MODEL", str(tmp_path))
    monkeypatch.setenv("CARACAL_REDIS_NEXT_URL", "http://:secret@x")
    with pytest.raises(InvalidSetting, match="CARACAL_REDIS_NEXT_URL") as caught:
        RouterSettings.from_env()
    assert "secret" not in str(caught.value)
