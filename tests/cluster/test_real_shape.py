"""The real model's shape end to end: 28 layers, 512 + 256 experts, top-12, in tiny widths.

Experts join, leave and die under streams, and so does the leader; every bit is that of one process, which drafts
nothing, while the cluster drafts two tokens of an answer.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from support.cluster_harness import (
    CALLERS,
    ClusterUnderTest,
    Stream,
    Streams,
    prompt_of,
    running_on,
    sampling_of,
    until,
)
from support.engine_driver import Driver, limits
from support.tiny_checkpoint import make_checkpoint
from support.user_commands import command, new_user
from typer.testing import CliRunner

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.cli.app import app
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.recording.lines import Header, Recorded, header_line, request_line

pytestmark = pytest.mark.processes

LAYERS, EXPERTS = 28, 512
SHAPE: dict[str, Any] = {
    "num_layers": LAYERS,
    "n_routed_experts": EXPERTS,
    "zero_expert_num": 256,
    "moe_topk": 12,
    "hidden_size": 32,
    "ffn_hidden_size": 32,
    "expert_ffn_hidden_size": 16,
}
WORKERS, TOKENS = 4, 40
SOME = 10 * CALLERS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("real_shape") / "model", seed=3, drafts=True, **SHAPE)


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[ClusterUnderTest]:
    yield from running_on(model, expert=WORKERS, routers=2, draft=2, environment={"CARACAL_REPLICAS": "1"})


def url_of(cluster: ClusterUnderTest, router: str) -> str:
    return dict(zip(("router-0", "router-1"), cluster.local.urls, strict=True))[router]


def holder(cluster: ClusterUnderTest) -> str:
    """The leader and its boot, as `router/boot`."""
    return cluster.do(cluster.membership.leader()) or ""


def leader(cluster: ClusterUnderTest) -> str:
    return holder(cluster).partition("/")[0]


def streams_beside_the_leader(cluster: ClusterUnderTest) -> Streams:
    """Streams through the router that does not lead."""
    until(lambda: leader(cluster), "no router leads")
    (other,) = (record for record in cluster.records("router") if record.worker_id != leader(cluster))
    return Streams(other.address, TOKENS)


@pytest.fixture(scope="module")
def expected(model: Path, running: ClusterUnderTest) -> list[tuple[list[int], list[int]]]:
    """Each caller's ids and checksums from an engine in this process, which has all experts."""
    checkpoint = Checkpoint.open(model)
    experts = Experts(checkpoint, torch.float32)
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            experts.load(layer, expert)
    dispatcher = MoEDispatcher(lambda _: LocalLink(experts), checkpoint.config)
    here = Endpoint(worker_id="local", address="local", boot_id="local")
    dispatcher.apply(Table(epoch=1, workers=[here], layers=[layer_of([[0]] * EXPERTS)] * LAYERS))
    driver = Driver(
        load_model(checkpoint, torch.float32, lambda done, total: None), dispatcher, limits(num_pages=256, max_len=512)
    )
    received = []
    for caller in range(CALLERS):
        wanted = sampling_of(caller, TOKENS)
        sampling = Sampling(max_tokens=TOKENS, ignore_eos=True, temperature=wanted.temperature, seed=wanted.seed)
        received.append(driver.submit(tokenize(running.local.urls[0], prompt_of(caller)), sampling))
    driver.finish()
    return [(one.ids, [token.logits_checksum for token in one.tokens]) for one in received]


def tokenize(url: str, prompt: str) -> list[int]:
    request = urllib.request.Request(
        f"{url}/tokenize", json.dumps({"prompt": prompt}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        ids: list[int] = json.load(answer)["tokens"]
        return ids


def check(streams: Streams, expected: list[tuple[list[int], list[int]]]) -> None:
    answers: list[list[Stream]] = streams.finish()
    for caller, wanted in zip(answers, expected, strict=True):
        for stream in caller:
            assert stream.finish_reason == "length"
            assert (stream.ids, stream.checksums) == wanted


def test_its_bits_are_those_of_one_process(
    running: ClusterUnderTest, expected: list[tuple[list[int], list[int]]]
) -> None:
    until(lambda: len(running.placed()) == WORKERS, "a worker gets no experts")
    check(streams_beside_the_leader(running), expected)
    page = f"http://{running.records('attention')[0].metrics_address}/metrics"
    with urllib.request.urlopen(page, timeout=10) as answer:
        (drafted,) = re.findall(r"caracal:spec_decode_num_draft_tokens_total ([\d.]+)", answer.read().decode())
    assert float(drafted) > CALLERS


def test_experts_scale_from_four_to_five_to_three(
    running: ClusterUnderTest, expected: list[tuple[list[int], list[int]]]
) -> None:
    streams = streams_beside_the_leader(running)
    streams.wait_for_tokens(SOME)
    running.scale("expert", 5)
    streams.wait_for_tokens(SOME)
    running.scale("expert", 3)
    streams.wait_for_tokens(SOME)
    check(streams, expected)
    assert sum(running.placed().values()) == LAYERS * EXPERTS


def test_an_expert_worker_is_killed(running: ClusterUnderTest, expected: list[tuple[list[int], list[int]]]) -> None:
    running.scale("expert", 3)
    streams, before = streams_beside_the_leader(running), running.epoch()
    streams.wait_for_tokens(SOME)
    running.kill("expert-1")
    until(lambda: running.epoch() > before, "no other table")
    until(lambda: len(running.placed()) == 3, "the restarted worker gets no experts")
    streams.wait_for_tokens(SOME)
    check(streams, expected)


def test_a_record_of_one_process_is_replayed(
    model: Path, running: ClusterUnderTest, expected: list[tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    running.scale("expert", 4)
    (numerics,) = {record.numerics_class for record in running.records("attention")}
    log = tmp_path / "record.jsonl"
    header = Header(model="model", directory=str(model), numerics_class=numerics, numerics={})
    requests = [
        Recorded(
            request_id=str(caller),
            prompt_ids=tokenize(running.local.urls[0], prompt_of(caller)),
            sampling=sampling_of(caller, TOKENS),
            ids=ids,
            checksums=checksums,
            ending="length",
            finish_reason="length",
            numerics_class=numerics,
        )
        for caller, (ids, checksums) in enumerate(expected)
    ]
    log.write_bytes(header_line(header) + b"".join(map(request_line, requests)))
    local = running.local
    user = new_user(tmp_path) | {"CARACAL_REDIS_URL": local.redis_url, "CARACAL_CLUSTER_KEY_FILE": str(local.key_file)}
    done = command(user, "verify", str(log), "--running")
    assert done.stdout == f"{CALLERS} requests, {CALLERS * TOKENS} tokens, 0 bits differ\n", done.stderr


def test_the_leader_is_killed(running: ClusterUnderTest, expected: list[tuple[list[int], list[int]]]) -> None:
    running.scale("expert", 3)
    streams, gone = streams_beside_the_leader(running), holder(running)
    streams.wait_for_tokens(SOME)
    running.kill(gone.partition("/")[0])
    until(lambda: holder(running) not in ("", gone), "no router leads")
    running.scale("expert", 4)
    streams.wait_for_tokens(SOME)
    check(streams, expected)


def test_status_shows_it(running: ClusterUnderTest) -> None:
    running.scale("expert", 4)
    leads = leader(running)
    admin = next(one.metrics_address for one in running.records("router") if one.worker_id == leads)

    def experts() -> int:
        done = CliRunner().invoke(app, ["status", "--gateway", f"http://{admin}"], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return sum(int(line.split()[2]) for line in done.output.splitlines() if line.startswith(" expert-"))

    until(lambda: experts() == LAYERS * EXPERTS, "the leases never say so")
