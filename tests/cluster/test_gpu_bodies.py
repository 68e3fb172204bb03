"""Workers with Triton kernels: an fp8 checkpoint gives the same answer over every link.

On a GPU where there is one, else in Triton's interpreter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import pytest
import torch
from caracal_proto import attention_pb2, attention_pb2_grpc
from support.cluster_harness import LINKS
from support.quantized_checkpoint import to_fp8
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.worker_processes import Store, place_everything, redis_store, spawn

from services.checkpoint.device import CPU
from services.checkpoint.numerics import numerics_of
from services.checkpoint.reader import Checkpoint

pytestmark = pytest.mark.processes

WHERE = {"DEVICE": "cuda"} if torch.cuda.is_available() else {"KERNELS": "triton"}
SMALL = PLAIN | {"num_layers": 1, "num_hidden_layers": 2, "n_routed_experts": 3, "zero_expert_num": 1, "moe_topk": 2}


def answer(address: str) -> list[tuple[int, int]]:
    """Returns (id, checksum of the logits) of each token of one answer."""
    sampling = attention_pb2.Sampling(max_tokens=3, temperature=0.8, seed=5, ignore_eos=True)
    request = attention_pb2.GenerateRequest(request_id="r", attempt=1, prompt_ids=[5, 6, 7, 8], sampling=sampling)
    with grpc.insecure_channel(address) as channel:
        events = list(attention_pb2_grpc.AttentionStub(channel).Generate(request, timeout=120))
    return [(token.id, token.logits_checksum) for event in events for token in event.tokens]


def sent(store: Store, worker_id: str, calls: str) -> bool:
    """Whether the attention worker has counted any of these calls."""
    found = store.record("attention", worker_id)
    return bool(found and found["stats"][calls])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_answer_from_triton_kernels(tmp_path: Path) -> None:
    model = to_fp8(make_checkpoint(tmp_path / "model", SMALL, dtype=torch.bfloat16))
    with redis_store(tmp_path) as store:
        common = {"MODEL": str(model), "REDIS_URL": store.url, "KV_PAGES": "4", **WHERE}
        workers = [spawn("expert", WORKER_ID="expert-0", **common)]
        workers += [spawn("attention", WORKER_ID=f"attention-{link}", LINK=link, **common) for link in LINKS]
        try:
            lease = store.await_record("expert", "expert-0")
            place_everything(store, lease, layers=1, experts=3, epoch=3)
            leases = [store.await_record("attention", f"attention-{link}", epoch=3) for link in LINKS]
            (numerics_class,) = {one["numerics_class"] for one in leases}
            assert numerics_class.startswith(lease["numerics_class"] + "-")
            other = numerics_of(Checkpoint.open(model), torch.bfloat16, CPU).name
            assert lease["numerics_class"] != other, "the workers do not run the CPU kernels"
            first, *others = (answer(one["address"]) for one in leases)
            assert len(first) == 3
            assert others == [first, first]
            for link, calls in (("nccl", "p2p_calls"), ("native", "native_calls")):
                until(partial(sent, store, f"attention-{link}", calls))
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
