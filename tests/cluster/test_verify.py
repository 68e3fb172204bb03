"""`caracal verify`: a record replayed on clusters of other shapes, while they change, and on a damaged checkpoint."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.cluster_harness import ClusterUnderTest, running_on, until
from support.user_commands import COMMAND, command, new_user, one_line

from services.cli.verify.logs import read
from services.local.settings import DEFAULT_MODEL
from services.router.recording.lines import Recorded

pytestmark = pytest.mark.processes

ASKED = [
    "What is 12 + 30?",
    "Count from 3 to 9.",
    "My cat is green, my town is Oslo and my lamp is old. How many minutes are 7 hours?",
    "What is 7 * 8?",
]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


SHAPES = {
    "warm": shlex.split("--expert 3 --tp 2 --link grpc --cache warm --set CARACAL_PAGE_SIZE=16 --set CARACAL_DRAFT=3"),
    "cold": shlex.split("--attention 2 --link nccl --cache cold --set CARACAL_DRAFT=0"),
}


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "record.jsonl"


@pytest.fixture(scope="module")
def running(log: Path) -> Iterator[ClusterUnderTest]:
    yield from running_on(DEFAULT_MODEL, record=str(log))


@pytest.fixture(scope="module")
def recorded(running: ClusterUnderTest, log: Path) -> list[Recorded]:
    """Requests with everything that changes an answer, and one whose client leaves."""
    url = running.local.urls[0]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    chats, model = client.chat.completions, DEFAULT_MODEL.name
    for text in ASKED:
        chats.create(model=model, messages=messages(text), temperature=0)
    chats.create(model=model, messages=messages(ASKED[0]), n=2, temperature=1.2, seed=5, max_tokens=12)
    rules = {"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 6, "bad_words": ["7"]}
    chats.create(
        model=model,
        messages=messages(ASKED[1]),
        temperature=0.8,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"30": 2},
        stop=["6"],
        extra_body=rules,
    )
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    chats.create(model=model, messages=messages(ASKED[2]), response_format=schema, max_tokens=30)  # type: ignore[call-overload]
    scored = {"prompt_logprobs": 1, "ignore_eos": True}
    client.completions.create(model=model, prompt="What is 12 + 30? " * 20, max_tokens=3, logprobs=1, extra_body=scored)
    with chats.create(model=model, messages=messages(ASKED[3]), stream=True, extra_body={"ignore_eos": True}) as chunks:
        next(iter(chunks))
    until(lambda: len(lines(log)) == 10, "not everything is written")
    return lines(log)


def lines(log: Path) -> list[Recorded]:
    return [entry.recorded for entry in read([log])] if log.exists() else []


@pytest.fixture
def user(tmp_path: Path, running: ClusterUnderTest) -> dict[str, str]:
    """Someone who finds the running cluster."""
    local = running.local
    return new_user(tmp_path) | {"CARACAL_REDIS_URL": local.redis_url, "CARACAL_CLUSTER_KEY_FILE": str(local.key_file)}


def verified(user: dict[str, str], log: Path, *words: str) -> dict[str, Any]:
    done = command(user, "verify", str(log), "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tokens(recorded: list[Recorded]) -> int:
    return sum(len(one.ids) for one in recorded)


def test_what_is_recorded(running: ClusterUnderTest, recorded: list[Recorded]) -> None:
    (numerics,) = {record.numerics_class for record in running.records("attention")}
    assert {one.numerics_class for one in recorded} == {numerics}
    assert {one.ending for one in recorded} == {"stop", "length", "cancel"}
    assert sum(bool(one.sampling.grammar) for one in recorded) == 1
    assert sum(one.prompt_logprobs is not None for one in recorded) == 1
    assert sum(one.finish_reason == "" for one in recorded) == 2, "a stop string, and a client that left"
    (router,) = running.records("router")
    page = httpx2.get(f"http://{router.metrics_address}/metrics").text
    assert re.search(rf"^caracal_record_requests_total {len(recorded)}\.0$", page, re.M)


def test_the_same_bits_on_one_cluster_of_every_size(
    running: ClusterUnderTest, user: dict[str, str], log: Path, recorded: list[Recorded]
) -> None:
    done = command(user, "verify", str(log), "--running")
    counts = f"{len(recorded)} requests, {tokens(recorded)} tokens"
    assert done.stdout == f"{counts}, 0 bits differ\n", done.stderr
    running.scale("attention", 2)
    running.scale("expert", 3)
    found = verified(user, log, "--running", "--passes", "2", "--concurrency", "5", "--score")
    assert (found["requests"], found["tokens"]) == (2 * len(recorded), 2 * tokens(recorded))
    assert found["scored"] == 2 * sum(len(one.logprobs) for one in recorded if one.logprobs) > 0


def test_workers_are_drained_and_killed_while_it_replays(
    running: ClusterUnderTest, user: dict[str, str], log: Path, recorded: list[Recorded]
) -> None:
    running.scale("attention", 2)
    running.scale("expert", 3)
    words = ("verify", str(log), "--json", "--running", "--passes", "40", "--concurrency", "6")
    replayed = subprocess.Popen([*COMMAND, *words], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        workers = running.records("attention")
        until(lambda: all(busy(worker.metrics_address) for worker in workers), "it does not begin")
        running.kill("expert-1")
        running.scale("attention", 1)
        assert replayed.poll() is None, "it was over before anything happened"
        out, err = replayed.communicate(timeout=120)
    finally:
        replayed.kill()
    assert replayed.returncode == 0, out + err
    found = json.loads(out)
    assert (found["requests"], found["tokens"]) == (40 * len(recorded), 40 * tokens(recorded))


def busy(address: str) -> bool:
    page = httpx2.get(f"http://{address}/metrics").text
    found = re.search(r"^caracal:num_requests_running(?:{.*})? (\S+)$", page, re.M)
    assert found
    return float(found[1]) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bits_on_a_cluster_of_its_own(
    user: dict[str, str], log: Path, recorded: list[Recorded], shape: str
) -> None:
    """The record is of a cluster with the defaults, so with drafts of one token."""
    found = verified(user, log, *SHAPES[shape])
    warm = shape == "warm"
    assert found["tokens"] == (1 + warm) * tokens(recorded)
    assert (found["cached_tokens"] > 0) == warm


def damaged(folder: Path, tensor: str) -> Path:
    """The built-in model with one bit of one weight flipped, in the middle of the tensor: no digest shows it."""
    shutil.copytree(DEFAULT_MODEL, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"][tensor]
    tensors = load_file(shard)
    with safe_open(shard, "pt") as opened:
        metadata = opened.metadata()
    bits = tensors[tensor].view(torch.int16).view(-1)
    middle = len(bits) // 2
    largest = int(tensors[tensor].view(-1)[middle - 100 : middle + 100].abs().argmax()) + middle - 100
    bits[largest] ^= -(2**15)  # its sign
    save_file(tensors, shard, metadata)
    return folder


def test_one_flipped_bit_of_one_weight_is_found_and_located(
    user: dict[str, str], tmp_path: Path, log: Path, recorded: list[Recorded]
) -> None:
    """Of an expert: it lies in another process than what computes the checksums."""
    model = damaged(tmp_path / "damaged", "model.layers.1.mlp.experts.3.up_proj.weight")
    done = command(user, "verify", str(log), "--model", str(model), "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["equal"]) == (1, False)
    assert found["differing"][0]["what"] == "logits"
    assert found["located"]["layer"] == 1


def test_another_numerics_class_is_refused_in_one_line(
    user: dict[str, str], tmp_path: Path, log: Path, recorded: list[Recorded]
) -> None:
    other = tmp_path / "other.jsonl"
    name = recorded[0].numerics_class
    text = log.read_text().replace(name, "caracal-0").replace('"dtype":"bfloat16"', '"dtype":"float32"')
    other.write_text(text)
    refused = one_line(command(user, "verify", str(other), "--running"))
    assert refused.startswith(
        f"caracal: the record is of numerics class caracal-0, the cluster of {name} (dtype float32"
    )
    done = command(user, "verify", str(other), "--running", "--any-class")
    assert done.returncode == 0
    assert "0 bits differ\ncompared across numerics classes: caracal-0 -> " in done.stdout


def test_a_record_that_was_changed_is_found(
    user: dict[str, str], tmp_path: Path, log: Path, recorded: list[Recorded]
) -> None:
    raw = [json.loads(line) for line in log.read_text().splitlines()]
    raw[2]["ids"][3] += 1
    raw[3]["checksums"][2] ^= 1
    raw[4]["finish_reason"] = "length"
    (scored,) = (line for line in raw if line.get("prompt_logprobs"))
    scored["prompt_logprobs"][7][0] *= 1 + 2**-22
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join(json.dumps(line) for line in raw) + "\n")
    done = command(user, "verify", str(changed), "--running", "--no-layers", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(one["line"], one["what"], one["token"]) for one in found["differing"][:3]] == [
        *((3, "token", 3), (4, "logits", 2)),
        (5, "ending", len(raw[4]["ids"])),
    ]
    assert [(one["in"], one["what"], one["token"]) for one in found["differing"][3:]] == [
        ("prompt", "log-probability", 8)
    ]
    done = command(user, "verify", str(changed), "--running", "--no-layers")
    assert re.search(
        r"line 4, request \S+: token 2 of the answer \(position \d+\): logits [0-9a-f]{8}, recorded", done.stdout
    )


def test_it_ends_in_order_at_a_signal(user: dict[str, str], log: Path, recorded: list[Recorded]) -> None:
    words = ("verify", str(log), "--passes", "1000")
    process = subprocess.Popen([*COMMAND, *words], env=user, stderr=subprocess.PIPE, text=True)
    folder = Path(user["TMPDIR"])
    until(lambda: list(folder.glob("caracal-*/expert-0.log")), "no cluster is started")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not list(folder.glob("caracal-*"))
