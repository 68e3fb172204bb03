"""A whole cluster with TLS: the same answers as without, bit for bit, also while all certificates are renewed."""

from __future__ import annotations

import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx2
import pytest
from caracal_proto import expert_pb2, expert_pb2_grpc
from support.certificates import Certificates
from support.cluster_harness import CALLERS, ClusterUnderTest, Stream, Streams, running_on, until
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.user_commands import command, lines_until, one_line, up

from services.security.identity import ROLES
from services.security.tls import LOOK_S

pytestmark = pytest.mark.processes

TOKENS = 40
running = contextmanager(running_on)


def answers(streams: Streams) -> list[set[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The different answers that each caller has got. Each is whole."""

    def bits(stream: Stream) -> tuple[tuple[int, ...], tuple[int, ...]]:
        assert stream.finish_reason == "length"
        return tuple(stream.ids), tuple(stream.checksums)

    return [{bits(stream) for stream in caller} for caller in streams.finish()]


def streams_of(cluster: ClusterUnderTest) -> Streams:
    return Streams(cluster.grpc_target, TOKENS)


def metric(cluster: ClusterUnderTest, role: str, name: str) -> float:
    """The sum over all workers of a role."""
    pages = [httpx2.get(f"http://{worker.metrics_address}/metrics").text for worker in cluster.records(role)]
    return sum(float(value) for page in pages for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.M))


def log_of(cluster: ClusterUnderTest, name: str) -> str:
    return (cluster.local.directory / f"{name}.log").read_text()


def test_answers_are_those_without_tls_while_all_certificates_are_renewed(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", PLAIN, num_layers=3, seed=3)
    with running(model) as cluster:
        plain = answers(streams_of(cluster))
    assert all(len(one) == 1 for one in plain)
    with running(model, tls=True) as cluster:
        folder = cluster.local.directory / "tls"
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
        assert modes == dict.fromkeys(["ca.crt", *(f"{role}.{kind}" for role in ROLES for kind in ("crt", "key"))], 384)
        assert folder.stat().st_mode & 0o777 == 0o700
        check_outsiders(cluster)
        streams = streams_of(cluster)
        streams.wait_for_tokens(5 * CALLERS)
        renew(cluster, folder)
        cluster.kill("expert-0")
        cluster.scale("expert", 2)
        cluster.scale("attention", 2)
        streams.wait_for_tokens(10 * CALLERS)
        assert answers(streams) == plain
        assert metric(cluster, "expert", "caracal_tls_connections_with_calls_total") >= 4
        assert metric(cluster, "expert", "caracal_unauthenticated_calls_total") == 0
        assert cluster.records("expert")[0].stats["over_native"] > 0


def check_outsiders(cluster: ClusterUnderTest) -> None:
    """The gateway's port is open to clients as before, those of workers are not."""
    (expert,) = cluster.records("expert")
    with grpc.insecure_channel(expert.address) as channel, pytest.raises(grpc.RpcError) as raised:
        expert_pb2_grpc.ExpertStub(channel).Describe(expert_pb2.ExpertDescribeRequest(), timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    for worker in (expert, *cluster.records("attention")):  # as Kubernetes asks, without a certificate
        for path in ("ready", "health/startup", "health/readiness", "health/liveness"):
            wait_for_yes(f"http://{worker.metrics_address}/{path}")


def wait_for_yes(url: str) -> None:
    """An expert worker says no until it has seen twice that no other numerics class serves."""
    until = time.monotonic() + 10
    while (answer := httpx2.get(url)).status_code != 200:
        assert time.monotonic() < until, (url, answer.text)
        time.sleep(0.2)


def renew(cluster: ClusterUnderTest, folder: Path) -> None:
    """A new authority and certificates, as SECURITY.md says: believe both, replace certificates, forget the old.

    Nothing is restarted.
    """
    made = Certificates(folder, (folder / "ca.crt").read_bytes())
    time.sleep(2 * LOOK_S)
    for role in ROLES:
        made.issue(role)
    names = [f"{role}-0" for role in ROLES]
    cluster.scale("expert", 2)  # whoever calls, and whoever is called, reads the files
    until(lambda: all("the certificate has changed" in log_of(cluster, name) for name in names), "not read again")
    time.sleep(2 * LOOK_S)
    made.write("ca.crt", made.authority)
    cluster.scale("expert", 1)


def test_a_user_starts_a_cluster_with_tls(user: dict[str, str], model: Path) -> None:
    with up(user, "--model", str(model), "--port", "0", "--tls") as process:
        lines_until(process, "Ctrl-C stops everything")
        scaled = command(user, "scale", "expert=2")
        assert scaled.returncode == 0, scaled.stderr
        shown = command(user, "status").stdout
        assert re.search(r"expert-1 .*serving ", shown), shown
        answered = command(user, "generate", "the cat", "--max-tokens", "4")
        assert answered.returncode == 0, answered.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not list(Path(user["TMPDIR"]).iterdir()), "no certificate is left"


def test_links_that_cannot_be_encrypted_are_one_line(user: dict[str, str], model: Path) -> None:
    output = one_line(command(user, "up", "--model", str(model), "--port", "0", "--tls", "--link", "nccl"))
    assert "--link is 'nccl': --tls is given, and NCCL and gloo cannot be encrypted: --allow-plain-p2p allows" in output
