"""An attention worker of two ranks as processes: its stream, the death of a rank, draining."""

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

pytestmark = pytest.mark.processes

TOKENS = 300
Token = tuple[int, int, int]  # (index, id, checksum of the logits)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tp"), ffn_hidden_size=97, vocab_size=321)


@contextmanager
def running_workers(checkpoint: Path, store: Store, *ranks: int) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """Yields attention workers of so many ranks as (process, address); starts an expert worker for them."""
    # The drain timeout is longer than an answer takes on any machine.
    common = {"MODEL": str(checkpoint), "REDIS_URL": store.url, "DRAIN_TIMEOUT_S": "120"}
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


def generate(address: str, emitted: list[Token] = []) -> Any:  # noqa: B006 - never changed
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


def tokens_of(events: Any) -> list[Token]:
    return [(token.index, token.id, token.logits_checksum) for event in events for token in event.tokens]


def wait_left(worker: subprocess.Popen[str], store: Store, since_s: float) -> None:
    """Waits until attention-0 has exited or released its lease; fails after two seconds, before a lease expires."""
    while worker.poll() is None and store.record("attention", "attention-0"):
        assert time.monotonic() - since_s < 2
        time.sleep(0.01)


def wait_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, left = psutil.wait_procs(processes, seconds)
    assert not left


def test_it_answers_like_one_rank_and_ends_with_its_other_rank(checkpoint: Path, tmp_path: Path) -> None:
    with redis_store(tmp_path) as store, running_workers(checkpoint, store, 2, 1) as [(two, at_two), (_, at_one)]:
        whole = tokens_of(generate(at_one))
        assert len(whole) == TOKENS
        assert tokens_of(generate(at_two)) == whole
        ranks = followers(two)
        assert len(ranks) == 1
        call = generate(at_two)
        first_part = [next(call) for _ in range(20)]
        ranks[0].kill()
        killed_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as lost:
            first_part += list(call)
        assert lost.value.code() == grpc.StatusCode.UNAVAILABLE, "the router sends it to another worker"
        wait_left(two, store, killed_s)
        _, errors = two.communicate(timeout=20)
        assert errors.splitlines()[-1] == "caracal: rank 1 has ended with code -9"
        assert two.returncode != 0
        assert "Traceback" not in errors.split("rank 1")[-1]
        assert tokens_of(first_part) + tokens_of(generate(at_one, tokens_of(first_part))) == whole


def test_ranks_end_together(checkpoint: Path, tmp_path: Path) -> None:
    with redis_store(tmp_path) as store, running_workers(checkpoint, store, 2, 2) as [(idle, _), (busy, address)]:
        killed_s = time.monotonic()
        followers(idle)[0].kill()
        wait_left(idle, store, killed_s)
        _, errors = idle.communicate(timeout=20)
        assert errors.splitlines()[-1] == "caracal: rank 1 has ended with code -9"
        ranks = followers(busy)
        next(generate(address))
        busy.kill()
        wait_gone(ranks, 2)


def test_sigterm_leaves_no_process_behind(checkpoint: Path, tmp_path: Path) -> None:
    with redis_store(tmp_path) as store, running_workers(checkpoint, store, 2) as [(worker, address)]:
        ranks = followers(worker)
        call = generate(address)
        begun = [next(call)]
        worker.send_signal(signal.SIGTERM)
        assert len(tokens_of([*begun, *call])) == TOKENS, "the last attention worker finishes its sequences"
        _, errors = worker.communicate(timeout=30)
        assert worker.returncode == 0, errors
        assert "Traceback" not in errors
        wait_gone(ranks, 1)


def test_an_invalid_tp_is_reported_once(checkpoint: Path, tmp_path: Path) -> None:
    worker = spawn("attention", MODEL=str(checkpoint), TP="3")
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert errors.strip() == "caracal: CARACAL_TP is 3: it must divide the model's 4 attention heads"
