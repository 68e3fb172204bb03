"""`caracal bench serve` against a server that is not Caracal's, as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted_endpoint import Body, ScriptedEndpoint, chat, completion
from support.user_commands import COMMAND, command, new_user, one_line

pytestmark = pytest.mark.processes
QUIET = ("--num-warmups", "0", "--random-input-len", "4")


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    return new_user(tmp_path)


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint(lambda body: completion("a", "b", "c")) as server:
        yield server


def bench(user: dict[str, str], server: ScriptedEndpoint, *words: str) -> subprocess.CompletedProcess[str]:
    return command(user, "bench", "serve", "--base-url", server.url, *words)


def test_requests_are_counted_by_the_server(user: dict[str, str], endpoint: ScriptedEndpoint) -> None:
    two = threading.Barrier(2, timeout=30)

    def script(body: Body) -> list[Any]:
        if len(endpoint.bodies) > 1:  # the first one warms up
            two.wait()
        return completion("a", "b", "c")

    endpoint.script = script
    words = ("--num-prompts", "6", "--max-concurrency", "2", "--random-input-len", "4", "--random-output-len", "9")
    done = bench(user, endpoint, *words, "--ignore-eos", "--extra-body", '{"min_p": 0.1}', "--header", "a=b", "c=d")
    assert done.returncode == 0, done.stderr
    assert "Successful requests:                     6\n" in done.stdout
    assert "Total input tokens:                      30\n" in done.stdout
    assert "Total generated tokens:                  18\n" in done.stdout
    assert "Maximum request concurrency:             2\n" in done.stdout
    assert "note: the server has no /tokenize" in done.stderr
    assert len(endpoint.bodies) == 7, "one of them warms up"
    assert endpoint.most_open == 2
    expected = {"model": "scripted", "max_tokens": 9, "ignore_eos": True, "min_p": 0.1, "temperature": 0.0}
    assert expected.items() <= endpoint.bodies[0].items()
    assert endpoint.bodies[0]["stream_options"] == {"include_usage": True}
    assert (endpoint.headers[0]["a"], endpoint.headers[0]["c"]) == ("b", "d")


def test_a_chat_is_loaded_and_saved(user: dict[str, str], tmp_path: Path) -> None:
    def script(body: Body) -> list[Any]:
        return chat({"reasoning_content": "hm"}, {"content": "yes"}, {"content": "!"}, usage=(11, 4))

    with ScriptedEndpoint(script) as server:
        words = (
            "--backend",
            "openai-chat",
            "--num-prompts",
            "3",
            "--request-rate",
            "200",
            "--model",
            "other",
            "--json",
        )
        more = (
            "--save-result",
            "--save-detailed",
            "--result-dir",
            str(tmp_path / "out"),
            "--result-filename",
            "r.json",
        )
        key = {"OPENAI_API_KEY": "secret"}
        done = bench(
            user | key, server, *words, *more, "--metadata", "tp=2", "--goodput", "ttft:60000", "e2el:60000", *QUIET
        )
        assert done.returncode == 0, done.stderr
        printed, saved = json.loads(done.stdout), json.loads((tmp_path / "out" / "r.json").read_text())
        assert printed == saved
        assert (saved["completed"], saved["total_output_tokens"], saved["model_id"]) == (3, 12, "other")
        assert (saved["tp"], saved["request_rate"], saved["backend"]) == ("2", 200.0, "openai-chat")
        assert saved["request_goodput"] == pytest.approx(saved["request_throughput"])
        assert saved["generated_texts"] == ["hmyes!"] * 3
        assert [len(itls) for itls in saved["itls"]] == [2, 2, 2], "the role alone is no token"
        assert server.headers[0]["Authorization"] == "Bearer secret"
        assert server.bodies[0]["messages"][0]["role"] == "user"
        assert "max_completion_tokens" in server.bodies[0]
        assert "secret" not in done.stdout + done.stderr


def test_errors_are_counted_and_the_first_is_shown(user: dict[str, str]) -> None:
    answers: list[list[Any]] = [
        completion("a"),
        [429, "slow down"],
        [{"error": {"message": "worker lost"}}],
        [{"choices": [{"text": "half"}]}],
        ["{"],
        ["[]"],
        [{"choices": "none"}],
        [{"choices": [], "usage": "many"}],
        [b"data: \xff\n\n"],
    ]
    with ScriptedEndpoint(lambda body: answers[len(server.bodies) - 1]) as server:
        done = bench(
            user,
            server,
            "--num-prompts",
            "9",
            "--max-concurrency",
            "1",
            "--save-detailed",
            "--json",
            "--result-dir",
            user["TMPDIR"],
            *QUIET,
        )
        assert done.returncode == 0
        found = json.loads(done.stdout)
        assert (found["completed"], found["failed"]) == (1, 8)
        assert found["errors"][:4] == ["", "429: slow down", "worker lost", "the stream ended before the answer did"]
        assert "8 requests failed; the first: 429: slow down" in done.stderr


def test_nothing_succeeds(user: dict[str, str]) -> None:
    with ScriptedEndpoint(lambda body: [500, "broken"]) as server:
        done = bench(user, server, "--num-prompts", "2", *QUIET)
        assert done.returncode == 1
        assert "Failed requests:                         2\n" in done.stdout
        warm = bench(user, server, "--num-prompts", "2")
        assert f"the warm-up request to {server.url}/v1/completions failed: 500: broken" in warm.stderr
        assert warm.returncode == 1


def test_a_server_without_usage_is_counted_by_events(user: dict[str, str]) -> None:
    with ScriptedEndpoint(lambda body: completion("a", "b", usage=None)) as server:
        done = bench(user, server, "--num-prompts", "2", "--json", *QUIET)
        assert json.loads(done.stdout)["total_output_tokens"] == 4
        assert "the server sends no usage" in done.stderr


def test_events_in_pieces_and_comments(user: dict[str, str]) -> None:
    raw = [
        b": ping\r\n\r\n",
        b'data: {"choices": [{"te',
        b'xt": "a\xc3',
        b'\xa4"}]}\n\ndata:{"choices": [{"text": "", ',
    ]
    raw += [
        b'"finish_reason": "stop"}]}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}',
    ]
    with ScriptedEndpoint(lambda body: raw) as server:
        done = bench(
            user, server, "--num-prompts", "1", "--save-detailed", "--json", "--result-dir", user["TMPDIR"], *QUIET
        )
        found = json.loads(done.stdout)
        assert (found["generated_texts"], found["total_output_tokens"], found["failed"]) == (["aä"], 1, 0)


def test_ctrl_c_gives_the_report_so_far(user: dict[str, str]) -> None:
    never = threading.Event()

    def script(body: Body) -> list[Any]:
        return completion("a") if len(server.bodies) <= 3 else [never]

    with ScriptedEndpoint(script) as server:
        words = ["bench", "serve", "--base-url", server.url, "--num-prompts", "50", "--max-concurrency", "2", *QUIET]
        process = subprocess.Popen(
            [*COMMAND, *words], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            deadline = time.monotonic() + 60
            while len(server.bodies) < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
            never.set()
    assert process.returncode == 130, errors
    assert "Successful requests:                     3\n" in output
    assert "interrupted after 3 of 50 requests" in errors


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--goodput", "speed:1"], 2, "--goodput: 'speed:1' is not"),
        (["--backend", "tgi"], 2, "--backend is 'tgi': must be openai, vllm, openai-chat"),
        (["--dataset-name", "sharegpt"], 2, "--dataset-name sharegpt needs --dataset-path"),
        (["--base-url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9/v1/models: Cannot connect"),
        (["--base-url", "http://x", "--port", "1"], 2, "name two servers"),
        (["--host", "127.0.0.1", "--port", "9"], 1, "http://127.0.0.1:9/v1/models"),
    ],
)
def test_what_cannot_be_run_is_one_line(user: dict[str, str], words: list[str], code: int, why: str) -> None:
    base = [] if {"--base-url", "--host"} & set(words) else ["--base-url", "http://127.0.0.1:9"]
    done = command(user, "bench", "serve", *base, *words)
    assert why in one_line(done)
    assert done.returncode == code


def test_without_a_cluster_or_a_url(user: dict[str, str]) -> None:
    assert "no cluster is running here" in one_line(command(user, "bench", "serve"))
