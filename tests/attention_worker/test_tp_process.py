"""A worker of two ranks as processes: the stream of a worker of one, its follower's death, how it leaves."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from caracal_proto import attention_pb2, attention_pb2_grpc
from support.tiny_checkpoint import make_checkpoint
from support.worker_processes import Store, place_everything, redis_store, spawn

TOKENS = 300
Notified = tuple[int, int, int]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tp"), ffn_hidden_size=97, vocab_size=321)


@contextmanager
def cluster(checkpoint: Path, store: Store, *ranks: int) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """An expert worker, and attention workers of so many ranks, as (process, address). Afterwards nothing is left."""
    # A drain that outlasts the answers, however slow the machine.
    common = {"MODEL": str(checkpoint), "REDIS_URL": store.url, "DRAIN_S": "120"}
    expert = spawn("expert", WORKER_ID="expert-0", **common)
    workers = [spawn("attention", WORKER_ID=f"attention-{n}", TP=str(tp), **common) for n, tp in enumerate(ranks)]
    try:
        place_everything(store, store.await_record("expert", "expert-0"), layers=2, experts=8, epoch=3)
        leases = [store.await_record("attention", f"attention-{n}", epoch=3) for n in range(len(ranks))]
        yield [(worker, lease["address"]) for worker, lease in zip(workers, leases, strict=True)]
    finally:
        for process in (*workers, expert):
            process.kill()
            process.communicate()


def followers(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(worker.pid).children(recursive=True)


def generate(address: str, emitted: list[Notified] = []) -> Any:  # noqa: B006 - never changed
    channel = grpc.insecure_channel(address)
    sampling = attention_pb2.Sampling(max_tokens=TOKENS, temperature=0.8, seed=5, ignore_eos=True)
    request = attention_pb2.GenerateRequest(
        request_id="r",
        attempt=1,
        prompt_ids=range(11, 111),
        emitted_ids=[id for _, id, _ in emitted],
        sampling=sampling,
    )
    return attention_pb2_grpc.AttentionStub(channel).Generate(request, timeout=60)


def told(events: Any) -> list[Notified]:
    return [(token.index, token.id, token.logits_checksum) for event in events for token in event.tokens]


def wait_left(worker: subprocess.Popen[str], store: Store, since_s: float) -> None:
    """Within two seconds attention-0 has given its lease back or is gone: sooner than the lease ends by itself."""
    while worker.poll() is None and store.record("attention", "attention-0"):
        assert time.monotonic() - since_s < 2
        time.sleep(0.01)


def wait_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, left = psutil.wait_procs(processes, seconds)
    assert not left


def test_it_answers_like_one_rank_and_dies_with_its_follower(checkpoint: Path, tmp_path: Path) -> None:
    with redis_store(tmp_path) as store, cluster(checkpoint, store, 2, 1) as [(two, at_two), (_, at_one)]:
        whole = told(generate(at_one))
        assert len(whole) == TOKENS
        assert told(generate(at_two)) == whole
        ranks = followers(two)
        assert len(ranks) == 1
        call = generate(at_two)
        begun = [next(call) for _ in range(20)]
        ranks[0].kill()
        killed_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as lost:
            begun += list(call)
        assert lost.value.code() == grpc.StatusCode.UNAVAILABLE, "the router takes it elsewhere"
        wait_left(two, store, killed_s)
        _, errors = two.communicate(timeout=20)
        assert errors.splitlines()[-1] == "caracal: rank 1 has ended with code -9"
        assert two.returncode != 0
        assert "Traceback" not in errors.split("rank 1")[-1]
        assert told(begun) + told(generate(at_one, told(begun))) == whole


def test_ranks_live_and_die_together(checkpoint: Path, tmp_path: Path) -> None:
    with redis_store(tmp_path) as store, cluster(checkpoint, store, 2, 2) as [(idle, _), (busy, address)]:
        killed_s = time.monotonic()
        followers(idle)[0].kill()
        wait_left(idle, store, killed_s)
        _, errors = idle.communicate(timeout=20)
        assert errors.splitlines()[-1] == "caracal: rank 1 has ended with code -9"
        ranks = followers(busy)
        next(generate(address))
        busy.kill()
        wait_gone(ranks, 2)


def test_sigterm_leaves_nothing_behind(checkpoint: Path, tmp_path: Path) -> None:
    with redis_store(tmp_path) as store, cluster(checkpoint, store, 2) as [(worker, address)]:
        ranks = followers(worker)
        call = generate(address)
        next(call)
        worker.send_signal(signal.SIGTERM)
        assert len(told(call)) == TOKENS - 1, "the last of its kind lets its sequences finish"
        _, errors = worker.communicate(timeout=30)
        assert worker.returncode == 0, errors
        assert "Traceback" not in errors
        wait_gone(ranks, 1)


def test_a_rank_that_cannot_load_is_refused_once(checkpoint: Path, tmp_path: Path) -> None:
    worker = spawn("attention", MODEL=str(checkpoint), TP="3")
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert errors.strip() == "caracal: CARACAL_TP is 3: it must divide the model's 4 attention heads"
