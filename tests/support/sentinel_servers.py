"""A Redis with users of few rights, its replica, and three Sentinels that watch both: all real, on this machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from services.local.redis_server import binary
from services.process.addresses import free_port

REPO = Path(__file__).resolve().parents[2]
NAME, PASSWORD = "lead", "p@ss/w?rd#"
WAIT_S = 30.0
# What Redis' own documentation gives replicas and Sentinels.
OTHERS = (
    "user replica on {password} +psync +replconf +ping",
    "user sentinel on {password} allchannels +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish"
    " +info +client|setname +client|kill +script|kill",
    "user admin on {password} ~* &* +@all",
    "user default off",
)


def documented_rules() -> str:
    """The rules of the user that docs/runbooks.md gives a cluster of the default name."""
    found = re.search(r"ACL SETUSER caracal on '>PASSWORD' (.*?)\n```", (REPO / "docs/runbooks.md").read_text(), re.S)
    assert found, "docs/runbooks.md has no ACL SETUSER any more"
    return " ".join(shlex.split(found[1].replace("\\\n", " ")))


@dataclass
class Servers:
    """`data`: the ports of the master, as it was at first, and of the replica."""

    data: tuple[int, int]
    sentinels: tuple[int, ...]
    master: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """As a cluster is given it."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://caracal:{quote(PASSWORD, safe='')}@{hosts}/{NAME}/0"

    def admin(self, port: int) -> Any:
        return redis.Redis(port=port, username="admin", password=PASSWORD)

    def denied(self, port: int) -> list[str]:
        """What a server has denied the cluster's user, but for what the client says about itself, unasked."""
        log = self.admin(port).acl_log()
        found = {f"{one['reason']} {one['object']}" for one in log if one["username"] == "caracal"}
        return sorted(one for one in found if not one.startswith("command client"))


@contextmanager
def sentinel_servers(folder: Path) -> Iterator[Servers]:
    ports = [free_port() for _ in range(5)]
    users = [one.format(password=f">{PASSWORD}") for one in OTHERS]
    users.append(f"user caracal on >{PASSWORD} {documented_rules()}")
    running = list[subprocess.Popen[bytes]]()
    with ExitStack() as stack:

        def start(name: str, lines: list[str], *words: str) -> subprocess.Popen[bytes]:
            config = folder / f"{name}.conf"
            config.write_text("".join(f"{line}\n" for line in ["bind 127.0.0.1", f"dir {folder}", *lines]))
            command = [binary(), str(config), *words]
            running.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL)))
            return running[-1]

        def data(name: str, port: int, *more: str) -> subprocess.Popen[bytes]:
            own = [f"port {port}", 'save ""', "repl-diskless-sync-delay 0", f"dbfilename {name}.rdb"]
            return start(name, [*own, "masteruser replica", f'masterauth "{PASSWORD}"', *users, *more])

        try:
            master = data("master", ports[0])
            data("replica", ports[1], f"replicaof 127.0.0.1 {ports[0]}")
            servers = Servers((ports[0], ports[1]), tuple(ports[2:]), master)
            _until(lambda: servers.admin(ports[1]).info("replication")["master_link_status"] == "up")
            for port in servers.sentinels:
                watched = [f"monitor {NAME} 127.0.0.1 {ports[0]} 2", f"auth-user {NAME} sentinel"]
                watched += [f'auth-pass {NAME} "{PASSWORD}"', f"down-after-milliseconds {NAME} 500"]
                watched.append(f"failover-timeout {NAME} 3000")
                start(f"sentinel-{port}", [f"port {port}", *(f"sentinel {one}" for one in watched)], "--sentinel")
            for port in servers.sentinels:
                _until(lambda port=port: _knows_all(port))
            yield servers
        finally:
            for each in running:
                each.kill()


def _knows_all(sentinel: int) -> bool:
    client: Any = redis.Redis(port=sentinel)
    state = client.sentinel_master(NAME)
    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)


def _until(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while True:
        with suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < end, "the servers do not find each other"
        time.sleep(0.05)
