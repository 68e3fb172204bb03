"""The expert worker as a process with a real Redis: its lease, placement in two phases, draining, error messages."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2
from caracal_proto.placements import layer_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.broken_checkpoint import edit_tensor
from support.tiny_checkpoint import make_checkpoint
from support.worker_processes import Store, place_everything, ready, redis_store, spawn

from services.expert_worker.readiness import NOT_KNOWN
from services.expert_worker.settings import ExpertSettings
from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.membership.shortage import CapacityShortage
from services.process.settings import InvalidSetting
from services.router.placement.leader import PlacementLeader
from services.router.placement.plan import Shape

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("process"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with redis_store(tmp_path) as one:
        yield one


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "CARACAL_MODEL is not set"),
        ({"MODEL": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"MODEL": "{broken}"}, "config.json: num_layers: is missing"),
        ({"MODEL": "{model}", "DTYPE": "float16"}, "CARACAL_DTYPE is 'float16': must be bfloat16, float32 or empty"),
        ({"MODEL": "{model}", "KERNELS": "sse"}, "CARACAL_KERNELS is 'sse': must be one of "),
        ({"MODEL": "{model}", "PORT": "{taken}"}, "cannot listen on 127.0.0.1:{taken}"),
        ({"MODEL": "{model}", "METRICS_PORT": "{taken}"}, "cannot listen on 127.0.0.1:{taken}"),
    ],
)
def test_a_bad_setting_ends_it_with_one_line(
    env: dict[str, str], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "longcat_flash"}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"model": checkpoint, "broken": tmp_path, "taken": taken.getsockname()[1]}
        worker = spawn("expert", **{key: value.format(**names) for key, value in env.items()})
        _, errors = worker.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert worker.returncode == 2, errors
    assert last.startswith("caracal: ")
    assert message.format(**names) in last
    assert "Traceback" not in errors


def end(worker: subprocess.Popen[str], seconds: float = 20) -> str:
    """Waits for a clean exit; returns what it logged."""
    _, errors = worker.communicate(timeout=seconds)
    assert worker.returncode == 0, errors
    assert "Traceback" not in errors
    return errors


def test_it_serves_while_it_drains_and_exits_when_it_has_no_experts(checkpoint: Path, store: Store) -> None:
    worker = spawn("expert", MODEL=str(checkpoint), REDIS_URL=store.url, WORKER_ID="expert-3")
    try:
        lease = store.await_record("expert", "expert-3")
        assert (lease["loaded"], lease["epoch"], lease["draining"]) == (0, 0, False)
        place_everything(store, lease, layers=2, experts=8, epoch=5)
        assert store.await_record("expert", "expert-3", epoch=5)["loaded"] == 16
        with grpc.insecure_channel(lease["address"]) as channel:
            stub = expert_pb2_grpc.ExpertStub(channel)
            described = stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=5)
            assert (described.worker_id, described.boot_id) == ("expert-3", lease["boot_id"])
            assert described.numerics_class == lease["numerics_class"]
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert (
                health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
                == health_pb2.HealthCheckResponse.SERVING
            )
            with urllib.request.urlopen(f"http://{lease['metrics_address']}/metrics", timeout=5) as page:
                assert "caracal_expert_loaded_experts 16.0" in page.read().decode()
            worker.send_signal(signal.SIGTERM)
            draining = store.await_record("expert", "expert-3", draining=True)
            assert draining["loaded"] == 16
            time.sleep(0.5)
            assert stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=5).draining, (
                "it serves until it has no experts"
            )
            nothing = placement_pb2.Table(epoch=6, layers=[layer_of([[]] * 8)] * 2)
            stub.Commit(expert_pb2.CommitRequest(table=nothing), timeout=5)
        assert "drained" in end(worker)
        assert store.record("expert", "expert-3") is None
    finally:
        worker.kill()
        worker.communicate()


def test_without_a_leader_it_exits_at_the_drain_timeout(checkpoint: Path, store: Store) -> None:
    worker = spawn("expert", MODEL=str(checkpoint), REDIS_URL=store.url, WORKER_ID="expert-0", DRAIN_TIMEOUT_S="1")
    try:
        place_everything(store, store.await_record("expert", "expert-0"), layers=2, experts=8, epoch=1)
        worker.send_signal(signal.SIGTERM)
        assert "leaving undrained" in end(worker)
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.parametrize("redis_alive", [False, True])
def test_without_callers_and_routers_it_does_not_wait_for_its_drain(
    checkpoint: Path, store: Store, redis_alive: bool
) -> None:
    worker = spawn("expert", MODEL=str(checkpoint), REDIS_URL=store.url, WORKER_ID="expert-0", DRAIN_TIMEOUT_S="60")
    try:
        place_everything(store, store.await_record("expert", "expert-0"), layers=2, experts=8, epoch=1)
        router = WorkerRecord(worker_id="r", role="router", address="127.0.0.1:1", boot_id="r").to_json()
        store.client.set("caracal:worker:router:r", router)
        store.client.sadd("caracal:workers:router", "r")
        worker.send_signal(signal.SIGTERM)
        if redis_alive:
            time.sleep(8)
            assert worker.poll() is None, "a router could still move its experts"
            store.client.delete("caracal:worker:router:r")
        else:
            store.client.shutdown(nosave=True)
        assert "leaving undrained" in end(worker, seconds=30)
    finally:
        worker.kill()
        worker.communicate()


def prepare(lease: dict[str, Any], expert: int) -> str:
    """Asks the worker to load an expert of layer 0; returns the error, empty on success."""
    wanted = [placement_pb2.LayerExperts(layer=0, experts=expert.to_bytes(2, "little"))]
    with grpc.insecure_channel(lease["address"]) as channel:
        try:
            request = expert_pb2.PrepareRequest(epoch=1, experts=wanted)
            expert_pb2_grpc.ExpertStub(channel).Prepare(request, timeout=30)
        except grpc.RpcError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("has_another", [False, True])
def test_experts_that_cannot_be_read_end_a_worker_that_has_no_others(
    tmp_path: Path, store: Store, has_another: bool
) -> None:
    name = "model.layers.0.mlp.experts.3.down_proj.weight"
    path = make_checkpoint(tmp_path / "model")
    edit_tensor(path, name, lambda weight: weight * float("nan"))
    worker = spawn("expert", MODEL=str(path), REDIS_URL=store.url, WORKER_ID="expert-0")
    try:
        lease = store.await_record("expert", "expert-0")
        if has_another:
            assert not prepare(lease, 2)
        assert f"{name}: holds NaN" in prepare(lease, 3)
        if has_another:
            time.sleep(1.5)
            assert worker.poll() is None, "it keeps serving the expert it has"
            return
        _, errors = worker.communicate(timeout=20)
        assert worker.returncode == 2, errors
        assert errors.strip().splitlines()[-1].startswith("caracal: model-0000")
        assert f"{name}: holds NaN" in errors.strip().splitlines()[-1]
    finally:
        worker.kill()
        worker.communicate()


def await_ready(lease: dict[str, Any], wanted: tuple[int, dict[str, str]]) -> None:
    """Waits until the worker's /ready says that."""
    deadline = time.monotonic() + 10
    while ready(lease) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ready(lease) == wanted


def test_ready_and_the_log_say_why_it_may_not_drain(checkpoint: Path, store: Store) -> None:
    worker = spawn("expert", MODEL=str(checkpoint), REDIS_URL=store.url, WORKER_ID="expert-0", DRAIN_TIMEOUT_S="4")
    try:
        lease = store.await_record("expert", "expert-0")
        assert ready(lease) == (503, {"status": "not ready", "reason": NOT_KNOWN})
        store.client.set("caracal:leader", "router-0/b", px=60_000)
        await_ready(lease, (503, {"status": "not ready", "reason": "no placement yet"}))
        place_everything(store, lease, layers=2, experts=8, epoch=1)
        assert ready(lease) == (200, {"status": "ready"})
        store.client.set("caracal:shortage", CapacityShortage("no capacity", {"expert-9": 3}).to_json())
        worker.send_signal(signal.SIGTERM)
        store.await_record("expert", "expert-0", draining=True)
        reason = "16 experts here have no other place yet"
        assert ready(lease) == (503, {"status": "not ready", "reason": f"draining: {reason}"}), (
            "the shortage names another worker"
        )
        store.client.set("caracal:shortage", CapacityShortage("no capacity", {"expert-0": 16}).to_json())
        explained = 503, {"status": "not ready", "reason": f"draining: {reason}: no capacity"}
        await_ready(lease, explained)
        with urllib.request.urlopen(f"http://{lease['metrics_address']}/metrics", timeout=5) as page:
            assert "caracal_expert_loaded_experts 16.0" in page.read().decode()
        logged = [json.loads(line) for line in end(worker).splitlines()]
        last = next(line for line in logged if line["event"] == "leaving undrained")
        assert (last["level"], last["reason"]) == ("error", f"{reason}: no capacity")
    finally:
        worker.kill()
        worker.communicate()


def test_a_leader_keeps_its_experts_while_the_others_have_no_capacity(checkpoint: Path, store: Store) -> None:
    env = {"MODEL": str(checkpoint), "REDIS_URL": store.url, "CAPACITY": "10"}
    workers = [spawn("expert", WORKER_ID=f"expert-{number}", **env) for number in range(2)]

    async def lead() -> tuple[int, dict[str, str]]:
        placement = PlacementLeader(Membership(store.url), "router-0", Shape(layers=2, experts=8))
        leader = asyncio.create_task(placement.run())
        lease = await asyncio.to_thread(store.await_record, "expert", "expert-1", epoch=1)
        workers[1].send_signal(signal.SIGTERM)
        found = await asyncio.to_thread(ready, lease)
        deadline = time.monotonic() + 20
        while "places" not in found[1].get("reason", "") and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            found = await asyncio.to_thread(ready, lease)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        return found

    try:
        status, body = asyncio.run(lead())
        assert status == 503
        assert body["reason"] == (
            "draining: 6 experts here have no other place yet: experts need 16 places, the workers that stay have 10: "
            "bring at least 1 more expert worker of 10, or raise their capacity"
        )
        assert workers[1].poll() is None, "it does not exit"
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_an_idle_worker_shows_progress(checkpoint: Path, store: Store) -> None:
    worker = spawn("expert", MODEL=str(checkpoint), REDIS_URL=store.url, WORKER_ID="expert-0")
    try:
        first = store.await_record("expert", "expert-0")
        deadline = time.monotonic() + 20
        while (store.record("expert", "expert-0") or first)["progress"] <= first["progress"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        end(worker)
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "CARACAL_PORT is 'http': not a whole number"),
        ("PORT", "70000", "CARACAL_PORT is 70000: must be at most 65535"),
        ("DRAIN_TIMEOUT_S", "-1", "CARACAL_DRAIN_TIMEOUT_S is -1.0: must be at least 0"),
        ("MAX_SESSIONS", "0", "CARACAL_MAX_SESSIONS is 0: must be at least 1"),
        ("DISPATCH_DTYPE", "int8", "CARACAL_DISPATCH_DTYPE is 'int8': must be fp8 or empty"),
        ("THREADS", "-2", "CARACAL_THREADS is -2: must be at least 0"),
    ],
)
def test_a_bad_setting_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        ExpertSettings.from_env({"CARACAL_MODEL": "m", f"CARACAL_{name}": value})


def test_empty_variables_count_as_not_set() -> None:
    settings = ExpertSettings.from_env({"CARACAL_MODEL": "m", "CARACAL_PORT": "", "CARACAL_ADVERTISE_HOST": "pod-1"})
    assert (settings.port, settings.reachable_host, settings.model) == (0, "pod-1", Path("m"))
