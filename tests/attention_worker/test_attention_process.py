"""Attention workers as processes: error messages at start, the lease, experts on another worker, and draining."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from caracal_proto import attention_pb2, attention_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.engine_driver import Driver, Received, limits
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import make_checkpoint
from support.worker_processes import Store, place_everything, ready, redis_store, spawn

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint

pytestmark = pytest.mark.processes

PROMPT = [11, 12, 13, 14, 15]
SERVING = health_pb2.HealthCheckResponse.SERVING


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
        ({"MODEL": "{model}", "MAX_MODEL_LEN": "4096"}, "CARACAL_MAX_MODEL_LEN is 4096, the model has 512"),
        ({"MODEL": "{model}", "KERNELS": "sse"}, "CARACAL_KERNELS is 'sse': must be one of "),
        ({"MODEL": "{model}", "PORT": "{taken}"}, "cannot listen on 127.0.0.1:"),
    ],
)
def test_a_bad_setting_ends_it_with_one_line(env: dict[str, str], message: str, checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = spawn("attention", **{k: v.format(model=checkpoint, taken=port) for k, v in env.items()})
        _, errors = worker.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert worker.returncode == 2
    assert last.startswith("caracal: ")
    assert message in last
    assert "Traceback" not in errors


def check_clean_exit(worker: subprocess.Popen[str]) -> None:
    """Waits for a worker that got SIGTERM, and asserts a clean exit."""
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert "Traceback" not in errors


def health(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status)


def test_it_takes_a_lease_waits_for_a_table_and_releases_the_lease(checkpoint: Path, store: Store) -> None:
    worker = spawn("attention", MODEL=str(checkpoint), REDIS_URL=store.url, WORKER_ID="attention-7", KV_PAGES="32")
    try:
        first = store.await_record("attention", "attention-7")
        assert (first["role"], first["epoch"], first["draining"]) == ("attention", 0, False)
        assert first["stats"]["kv_pages_total"] == 32
        assert health(first["address"]) != SERVING, "no table yet"
        assert ready(first) == (503, {"status": "not ready", "reason": "no placement yet"})
        deadline = time.monotonic() + 20
        while (store.record("attention", "attention-7") or first)["progress"] <= first["progress"]:
            assert time.monotonic() < deadline, "an idle engine counts progress"
            time.sleep(0.1)
    finally:
        worker.send_signal(signal.SIGTERM)
        check_clean_exit(worker)
    assert store.record("attention", "attention-7") is None


def generate(address: str, max_tokens: int, emitted: list[int] | None = None) -> Any:
    """Starts a Generate call; returns its stream of events."""
    channel = grpc.insecure_channel(address)
    sampling = attention_pb2.Sampling(max_tokens=max_tokens, temperature=0.8, seed=5, ignore_eos=True)
    request = attention_pb2.GenerateRequest(
        request_id="r", attempt=1, prompt_ids=PROMPT, emitted_ids=emitted or [], sampling=sampling
    )
    return attention_pb2_grpc.AttentionStub(channel).Generate(request, timeout=60)


def tokens_of(events: Any) -> list[tuple[int, int, int]]:
    return [(token.index, token.id, token.logits_checksum) for event in events for token in event.tokens]


def expected(checkpoint: Path, max_tokens: int) -> Received:
    """Returns the result of the same request in this process, with the experts run on one row at a time."""
    opened = Checkpoint.open(checkpoint)
    model = load_model(opened, torch.float32, lambda done, total: None)
    driver = Driver(model, ReferenceDispatcher(opened, torch.float32), limits(num_pages=64, max_len=512))
    received = driver.submit(PROMPT, Sampling(max_tokens=max_tokens, temperature=0.8, seed=5, ignore_eos=True))
    driver.finish()
    return received


def test_a_sequence_continues_on_another_worker_bit_for_bit(checkpoint: Path, store: Store) -> None:
    common = {"MODEL": str(checkpoint), "REDIS_URL": store.url}
    expert = spawn("expert", WORKER_ID="expert-0", **common)
    first, second = (spawn("attention", WORKER_ID=f"attention-{n}", **common) for n in (0, 1))
    try:
        place_everything(store, store.await_record("expert", "expert-0"), layers=2, experts=8, epoch=3)
        lease = store.await_record("attention", "attention-0", epoch=3)
        assert ready(lease) == (200, {"status": "ready"})
        old = lease["address"]
        new = store.await_record("attention", "attention-1", epoch=3)["address"]
        assert health(old) == health(new) == SERVING
        call = generate(old, 320)
        first_part = [next(call) for _ in range(20)]
        terminated_s = time.monotonic()
        first.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            first_part += list(call)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "draining")
        assert time.monotonic() - terminated_s < 5, "it does not wait for the end of the answer"
        before = tokens_of(first_part)
        rest = tokens_of(generate(new, 320, emitted=[id for _, id, _ in before]))
        whole = [(token.index, token.id, token.logits_checksum) for token in expected(checkpoint, 320).tokens]
        assert before + rest == whole
        check_clean_exit(first)
        last = generate(new, 300)
        begun = [next(last)]
        second.send_signal(signal.SIGTERM)
        draining = store.await_record("attention", "attention-1", draining=True)
        assert ready(draining)[1]["reason"].startswith("draining")
        assert len(tokens_of([*begun, *last])) == 300, "the last attention worker finishes its sequences"
        check_clean_exit(second)
    finally:
        for process in (first, second, expert):
            process.kill()
            process.communicate()
