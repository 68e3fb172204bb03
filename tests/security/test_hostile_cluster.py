"""A whole cluster of processes, with an outsider at its ports and in its Redis: it goes on and answers the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import psutil
import pytest
import redis
from caracal_proto import attention_pb2_grpc, expert_pb2, expert_pb2_grpc
from caracal_proto.placement_pb2 import Endpoint, Table
from support.cluster_harness import ClusterUnderTest, running_cluster, until
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.worker_processes import REPO, redis_store

from services.cli.cluster_redis import open_membership
from services.cli.run_state import RunState
from services.membership.overview import Overview
from services.router.placement.leader import READ_S

pytestmark = pytest.mark.processes

PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("cluster"), link="grpc")


def spoil(client: Any, prefix: str = "caracal:") -> None:
    """One bad key of every kind."""
    names = {"bad": b"\xff", "surrogate": b'{"address": "\\ud800"}', "digits": b'{"capacity": %s}' % (b"9" * 5000)}
    for role in ("router", "attention", "expert"):
        client.sadd(f"{prefix}workers:{role}", b"\xff", *names)
        for name, value in names.items():
            client.set(f"{prefix}worker:{role}:{name}", value)
    client.hset(f"{prefix}desired", mapping={b"\xff": "9" * 5000, "expert": "9" * 5000})
    client.hset(f"{prefix}placement", mapping={"epoch": 2**62 - 1, "table": b"\xff"})
    client.set(f"{prefix}shortage", '{"reason": "\\ud800", "lost": NaN}')
    client.set(f"{prefix}leader", b"\xff")
    client.set(f"{prefix}changes", b"\xff")


def test_a_cluster_with_a_key_goes_on_among_what_outsiders_write(cluster: ClusterUnderTest) -> None:
    client = redis.Redis.from_url(cluster.local.redis_url)
    before = cluster.epoch()
    pids = {name: child.pid for name, child in cluster.local.children.items()}
    spoil(client)
    evil = Endpoint(worker_id="expert-0", boot_id="evil", address="127.0.0.1:1")
    client.hset("caracal:placement", mapping={"epoch": before + 1, "table": Table(workers=[evil]).SerializeToString()})
    time.sleep(READ_S + 0.5)
    url = cluster.local.admin_url
    assert httpx2.get(url + "/ready").json() == {"status": "ready"}
    body = httpx2.get(url + "/cluster").json()
    assert sorted(worker["worker_id"] for worker in body["workers"]) == ["attention-0", "expert-0", "router-0"]
    assert httpx2.get(url + "/console/api/state").status_code == 200
    cluster.scale("expert", 2)
    cluster.scale("expert", 1)
    until(lambda: len(cluster.records("expert")) == 1, "a worker does not leave")
    answers = cluster.streams().finish()
    assert all(stream.finish_reason for caller in answers for stream in caller)
    assert before < cluster.epoch() < before + 10
    now = {name: child.pid for name, child in cluster.local.children.items() if name in pids}
    assert now == pids, "no process has died"
    page = httpx2.get(url + "/metrics").text
    assert 'caracal_redis_bad_records_total{kind="worker"} ' in page


def test_ports_of_workers_take_no_calls_of_outsiders(cluster: ClusterUnderTest) -> None:
    (expert,), (attention,) = cluster.records("expert"), cluster.records("attention")
    table = Table(epoch=2**64 - 1, numerics_class=expert.numerics_class)
    with grpc.insecure_channel(expert.address) as channel, pytest.raises(grpc.RpcError) as raised:
        expert_pb2_grpc.ExpertStub(channel).Commit(expert_pb2.CommitRequest(table=table), timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(attention.address) as channel, pytest.raises(grpc.RpcError) as raised:
        attention_pb2_grpc.AttentionStub(channel).ApplyTable(table, timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    page = httpx2.get(f"http://{expert.metrics_address}/metrics").text
    assert 'caracal_unauthenticated_calls_total{method="/caracal.Expert/Commit"} 1.0' in page
    assert httpx2.get(cluster.local.urls[0] + "/ready").status_code == 200


def test_b33_a_local_cluster_listens_on_loopback_alone(cluster: ClusterUnderTest) -> None:
    """CVE-2025-30202: sockets on all interfaces."""
    listening = {
        (name, one.laddr.ip)
        for name, child in cluster.local.children.items()
        for process in (psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True))
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }
    assert {name.partition("-")[0] for name, _ in listening} >= {"router", "attention", "expert"}
    assert {address for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_commands_read_with_the_key_that_up_has_written(
    cluster: ClusterUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = cluster.local
    assert local.key_file.stat().st_mode & 0o777 == 0o600
    state = RunState(pid=1, url="", redis_url=local.redis_url, key_file=str(local.key_file))

    async def read(known: RunState) -> tuple[Overview, str]:
        membership = open_membership(known)
        try:
            return await Overview.read(membership), membership.bad.last
        finally:
            await membership.close()

    overview, _ = cluster.do(read(state))
    assert len(overview.workers) == 3
    for name in ("CARACAL_CLUSTER_KEY", "CARACAL_CLUSTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    without = RunState(pid=0, url="", redis_url=local.redis_url)
    redis.Redis.from_url(local.redis_url).hdel("caracal:desired", b"\xff")
    overview, why = cluster.do(read(without))
    assert not overview.workers
    assert "no cluster key" in why
    monkeypatch.setenv("CARACAL_CLUSTER_KEY_FILE", str(local.key_file))
    overview, _ = cluster.do(read(without))
    assert len(overview.workers) == 3
    command = Path(f"/proc/{local.children['router-0'].pid}/environ").read_bytes()
    assert local.key_file.read_bytes().strip() not in command, "the key is in a file, not in an environment"


def test_a_router_without_a_key_lives_in_a_spoilt_redis(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", PLAIN)
    with redis_store(tmp_path) as store:
        spoil(store.client)
        env = {name: value for name, value in os.environ.items() if not name.startswith("CARACAL_")}
        env |= {"PYTHONPATH": PATHS, "CARACAL_MODEL": str(model), "CARACAL_REDIS_URL": store.url}
        env |= {"CARACAL_PORT": "0", "CARACAL_GRPC_PORT": "0", "CARACAL_ADMIN_PORT": "0"}
        env |= {"CARACAL_WORKER_ID": "router-0"}
        process = subprocess.Popen(
            [sys.executable, "-m", "services.router"], env=env, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            listening = next((json.loads(line) for line in process.stderr if "router listens" in line), None)
            assert listening is not None, "it did not start"
            url = f"http://{listening['admin']}"
            until(lambda: store.client.get("caracal:leader") != b"\xff", "it does not lead")
            spoil(store.client)
            for _ in range(3):
                time.sleep(0.6)
                answer = httpx2.get(url + "/cluster")
                assert answer.status_code == 200
                assert [worker["worker_id"] for worker in answer.json()["workers"]] == ["router-0"]
                assert httpx2.get(url + "/ready").json()["reason"] == "no attention worker"
                assert httpx2.get(url + "/console/api/state").status_code == 200
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
