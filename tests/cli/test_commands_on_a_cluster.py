"""Every command that talks to a cluster, against one that `caracal serve DIR` has started."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny_checkpoint import make_checkpoint
from support.user_commands import COMMAND, command, completed, lines_until, new_user

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user for whom a cluster runs, with its URL as URL."""
    folder = tmp_path_factory.mktemp("serve")
    model = make_checkpoint(folder / "tiny-random")
    user = new_user(folder)
    words = ["serve", str(model), "--port", "0", "--dtype", "float32"]
    with subprocess.Popen(
        [*COMMAND, *words], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            found = re.search(r"serves at (\S+)", lines_until(process, "Ctrl-C stops everything"))
            assert found
            yield user | {"URL": found[1]}
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def ok(user: dict[str, str], *words: str) -> str:
    done = command(user, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bench_serve_asks_for_exact_lengths(served: dict[str, str], tmp_path: Path) -> None:
    lengths = ("--num-prompts", "6", "--max-concurrency", "3", "--random-input-len", "21", "--random-output-len", "5")
    saving = ("--save-detailed", "--result-dir", str(tmp_path))
    found = json.loads(ok(served, "bench", "serve", *lengths, "--ignore-eos", "--json", *saving))
    assert found["model_id"] == "tiny-random"
    assert (found["completed"], found["failed"]) == (6, 0)
    assert found["input_lens"] == [21] * 6
    assert found["output_lens"] == [5] * 6
    assert found["max_concurrent_requests"] <= 3
    assert len(list(tmp_path.glob("openai-infqps-concurrency3-tiny-random-*.json"))) == 1


def test_bench_serve_loads_chats_at_a_rate(served: dict[str, str]) -> None:
    words = ("--base-url", f"{served['URL']}/v1", "--endpoint", "/v1/chat/completions", "--request-rate", "50")
    few = ("--num-prompts", "4", "--input-len", "8", "--output-len", "4", "--ignore-eos")
    shown = ok(served, "bench", "serve", *words, *few)
    assert "Successful requests:                     4\n" in shown
    assert "Total generated tokens:                  16\n" in shown
    assert "P99 TTFT (ms):" in shown


def test_chat_answers_every_line(served: dict[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, "chat", "--max-tokens", "4", "--temperature", "0"],
        env=served, input="the cat\nsat\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_status_and_top_agree(served: dict[str, str]) -> None:
    status = json.loads(ok(served, "status", "--json"))
    assert (status["serving"], status["not_ready_reason"]) == (True, "")
    top = json.loads(ok(served, "top", "--once", "--json", "--interval", "0.5"))
    assert {one["worker"] for one in top["workers"]} == {one["worker_id"] for one in status["workers"]}
    assert {one["state"] for one in top["workers"]} == {"serving"}
    assert top["tokens_per_s"] == 0
    for width in ("80", "60"):
        shown = ok(served | {"COLUMNS": width}, "top", "--once", "--interval", "0.2")
        assert max(map(len, shown.splitlines())) <= int(width)
        assert "attention-0" in shown
        assert "…" not in ok(served | {"COLUMNS": width}, "status", "--numerics")
    assert json.loads(ok(served, "status", "--json", "--gateway", served["URL"]))["serving"] is True


def test_top_sees_the_load(served: dict[str, str]) -> None:
    load = ["bench", "serve", "--num-prompts", "1000", "--max-concurrency", "4", "--input-len", "4"]
    rising = ("tokens_per_s", "requests_per_s", "ttft_p50_ms", "itl_p99_ms")
    with subprocess.Popen(
        [*COMMAND, *load, "--output-len", "64", "--ignore-eos"],
        env=served,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with subprocess.Popen(
                [*COMMAND, "top", "--json", "--interval", "0.3"], env=served, stdout=subprocess.PIPE, text=True
            ) as top:
                try:
                    assert top.stdout
                    busy = next(one for one in map(json.loads, top.stdout) if all(one[name] for name in rising))
                finally:
                    top.kill()
        finally:
            process.kill()
    assert busy["ttft_p50_ms"] <= busy["ttft_p99_ms"]
    attention = next(one for one in busy["workers"] if one["role"] == "attention")
    assert 0 <= attention["zero_share"] <= 1
    assert 0 <= attention["exposed_share"] <= 1


def test_logs_have_every_role_and_json_its_fields(served: dict[str, str]) -> None:
    names = {line.partition(" | ")[0].strip() for line in ok(served, "logs").splitlines()}
    assert names == {"redis", "router-0", "attention-0", "expert-0"}
    router = [json.loads(line) for line in ok(served, "logs", "router-0", "--json").splitlines()]
    assert {"router listens", "table published"} <= {one["event"] for one in router}
    assert {one["worker"] for one in router} == {"router-0"}
    assert completed(served, "caracal logs r") == ["redis", "router-0"]
    assert completed(served, "caracal logs router-0 exp") == ["expert-0"]


def test_scale_as_json_and_the_logs_of_a_worker_that_joined(served: dict[str, str]) -> None:
    found = json.loads(ok(served, "scale", "expert=2", "--json"))
    assert (found["counts"], found["reached"]) == ({"expert": 2}, True)
    assert "experts are ready" in ok(served, "logs", "expert-1")
    assert json.loads(ok(served, "scale", "expert=1", "--timeout", "0", "--json"))["seconds"] is None


def test_every_form_of_an_address(served: dict[str, str]) -> None:
    forms = (f"{served['URL']}/v1/chat/completions", served["URL"].removeprefix("http://"))
    for form in forms:
        assert ok(served, "generate", "the cat", "--max-tokens", "2", "--url", form)
        assert ok(served, "top", "--once", "--interval", "0.1", "--gateway", form)
