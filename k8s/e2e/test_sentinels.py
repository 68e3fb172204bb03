"""A Redis that Sentinels know: a release finds it by their URL, and goes on at another one after a failover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.e2e.bare_pods import container, named, pod
from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams
from k8s.e2e.targets import Target

PORTS = {"master": 6379, "replica": 6380, "sentinel": 26379}
URL = "redis+sentinel://sentinels:26379/main/0"
VALUES = {
    "redis__enabled": "false",
    "externalRedis__url": URL,
    "externalRedis__port": PORTS["master"],
    "externalRedis__sentinelPort": PORTS["sentinel"],
}
ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", 26379), 5) as connection:
    connection.sendall(" ".join(sys.argv[1:]).encode() + b"\\r\\n")
    print(connection.recv(4000).decode())
"""


@pytest.fixture
def release(target: Target) -> Iterator[Cluster]:
    with temporary(target, "caracal-sentinels") as release:
        program = Path(__file__).with_name("sentinels.py").read_text()
        ports = [{"name": name, "port": port} for name, port in PORTS.items()]
        release.apply(
            named("ConfigMap", "sentinels", data={"sentinels.py": program}),
            named("Service", "sentinels", spec={"selector": {"app": "sentinels"}, "ports": ports}),
            named("Pod", "sentinels", {"app": "sentinels"}, spec=_servers(release.image)),
        )
        release.kubectl("wait", "--for=condition=Ready", "pod/sentinels", "--timeout=120s")
        until(lambda: _ask(release, "SENTINEL", "replicas", "main").startswith("*1"), "Sentinel finds no replica")
        release.install("install", **VALUES)
        release.wait_for_pods(router=1, attention=1, expert=1)
        yield release


def _servers(image: str) -> dict[str, Any]:
    address = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    command = ["python", "/program/sentinels.py"]
    containers = [
        container(name, image, [*command, name], {"program": "/program"}, port) | {"env": address}
        for name, port in PORTS.items()
    ]
    return pod(containers, [{"name": "program", "configMap": {"name": "sentinels"}}])


def _ask(release: Cluster, *words: str) -> str:
    return release.kubectl("exec", "sentinels", "-c", "sentinel", "--", "python", "-c", ASK, *words)


def test_a_failover_is_not_noticed(release: Cluster, disturbed: Disturb) -> None:
    assert not release.pods("redis")

    def fail_over(streams: Streams) -> None:
        assert "6379" in _ask(release, "SENTINEL", "get-master-addr-by-name", "main")
        assert "+OK" in _ask(release, "SENTINEL", "failover", "main")
        until(lambda: "6380" in _ask(release, "SENTINEL", "get-master-addr-by-name", "main"), "nothing fails over")
        streams.wait_for_answers(1)
        release.scale("expert", 2)  # joins wait for the new one
        streams.wait_for_answers(1)

    disturbed("Sentinels fail over to another Redis", fail_over, to=release)
