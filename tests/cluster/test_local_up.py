"""`caracal up`, and the commands that use the cluster it starts, as a user types them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from support.tiny_checkpoint import make_checkpoint
from support.user_commands import command, lines_until, one_line, up

from services.cli.up import usage
from services.local.cores import cores_of
from services.local.settings import DEFAULT_MODEL

pytestmark = pytest.mark.processes


def check_cores(parent: int) -> None:
    """Threads that compute keep to their role's cores, those that serve clients may run on any."""
    cores = sorted(os.sched_getaffinity(0))
    found = {}
    for child in psutil.Process(parent).children():
        role = child.environ().get("CARACAL_WORKER_ID", "")
        affinities = {frozenset(os.sched_getaffinity(thread.id)) for thread in child.threads()}
        found[role] = affinities
    if len(cores) >= 2:
        for role in ("attention", "expert"):
            assert found[f"{role}-0"] == {frozenset(cores), cores_of(role, 1, 1, cores)}
    assert found["router-0"] == {frozenset(cores)}


def test_a_user_starts_asks_scales_and_stops(user: dict[str, str], model: Path) -> None:
    with up(user, "--model", str(model), "--port", "0", "--dtype", "float32") as process:
        output = lines_until(process, "Ctrl-C stops everything")
        assert "> What is" in output
        assert "built-in model" not in output
        curl = re.search(r"  (curl .*)", output)
        assert curl
        answer = subprocess.run(curl[1], shell=True, capture_output=True, text=True, timeout=60)
        assert '"delta"' in answer.stdout
        assert answer.stdout.rstrip().endswith("data: [DONE]")

        ask = ("generate", "the cat", "--max-tokens", "8", "--temperature", "1", "--seed", "5")
        first, second = command(user, *ask), command(user, *ask)
        assert first.returncode == 0, first.stderr
        assert first.stdout == second.stdout
        check_cores(process.pid)

        scaled = command(user, "scale", "expert=2")
        assert scaled.returncode == 0, scaled.stderr
        assert "expert=2: reached in" in scaled.stdout
        shown = command(user, "status").stdout
        assert re.search(r"expert-1 .*serving .* 16 ", shown), "two replicas of each of 16"
        assert re.search(r"attention-0 .*serving.*%.* µs \d+%", shown), shown
        assert "leader router-0" in shown

        children = psutil.Process(process.pid).children(recursive=True)
        texts = [one for one in children if "services.router.requests.text_child" in one.cmdline()]
        assert len(children) - len(texts) in (5, 6), "or with a spare, if all of this has taken long enough"
        assert 1 <= len(texts) <= 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        _, left = psutil.wait_procs(children, timeout=1)
        assert not left
    assert not list(Path(user["TMPDIR"]).iterdir())
    assert "no cluster is running" in one_line(command(user, "status"))


def test_up_says_what_the_built_in_model_knows() -> None:
    output = usage("http://127.0.0.1:8000", DEFAULT_MODEL)
    assert output.startswith("The built-in model is a small one: it adds, counts, converts units, remembers")
    assert "CARACAL_URL=http://127.0.0.1:8000" in output


def test_children_do_not_outlive_a_killed_parent(user: dict[str, str], model: Path) -> None:
    with up(user, "--model", str(model), "--port", "0", "--link", "nccl", "--dispatch-dtype", "fp8") as process:
        lines_until(process, "Ctrl-C stops everything")
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, left = psutil.wait_procs(children, timeout=5)
        assert not left
    assert "did not exit cleanly" in one_line(command(user, "scale", "expert=2"))


def test_a_taken_port_is_one_line(user: dict[str, str], model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"127.0.0.1:{port}" in one_line(command(user, "up", "--model", str(model), "--port", port))


@pytest.mark.parametrize(("option", "value"), [("--link", "rdma"), ("--dispatch-dtype", "int4")])
def test_a_link_that_is_not_known_is_one_line(user: dict[str, str], model: Path, option: str, value: str) -> None:
    output = one_line(command(user, "up", "--model", str(model), "--port", "0", option, value))
    assert f"{option} is '{value}': must be " in output


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("LINK", "foo", "--link is 'foo': must be grpc, nccl, native or empty"),
        ("DISPATCH_DTYPE", "int4", "--dispatch-dtype is 'int4': must be fp8 or empty"),
        ("KV_DTYPE", "int8", "--kv-dtype is 'int8': must be fp8 or empty"),
        ("KV_PAGES", "-3", "--kv-pages is -3: must be at least 0"),
        ("KV_PAGES", "1000000000", "attention-0: CARACAL_KV_PAGES: 1000000000 pages of CARACAL_PAGE_SIZE 64 take"),
        ("MAX_ITL_MS", "-1", "--max-itl-ms is -1.0: must be at least 0"),
        ("TP", "3", "--tp is 3: must divide the model's 4 attention heads"),
        ("DEVICE", "cuda:99", "--device is 'cuda:99': this machine has"),
    ],
)
def test_variables_of_workers_are_taken_and_checked(
    user: dict[str, str], model: Path, variable: str, value: str, why: str
) -> None:
    given = user | {f"CARACAL_{variable}": value}
    assert why in one_line(command(given, "up", "--model", str(model), "--port", "0"))


def test_a_child_that_cannot_start_says_why_and_nothing_is_left(user: dict[str, str], tmp_path: Path) -> None:
    broken = make_checkpoint(tmp_path / "broken")
    (broken / "model-00001-of-00002.safetensors").unlink()
    output = one_line(command(user, "up", "--model", str(broken), "--port", "0"))
    assert "model-00001-of-00002.safetensors" in output
    left = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("HOME") == user["HOME"]]
    assert not left
    assert not list(Path(user["TMPDIR"]).iterdir())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["expert=-1"], "expert=-1: must be at least 0"),
        (["router=2"], "scale takes attention=COUNT and expert=COUNT"),
        (["expert=many"], "is not a whole number"),
        (["expert=1000"], "at most 64 processes"),
    ],
)
def test_invalid_counts_are_one_line(user: dict[str, str], words: list[str], why: str) -> None:
    assert why in one_line(command(user, "scale", *words))


def test_generate_says_when_no_gateway_answers(user: dict[str, str]) -> None:
    assert "refused" in one_line(command(user, "generate", "hello", "--url", "http://127.0.0.1:9"))


def test_plan_of_the_large_model(user: dict[str, str]) -> None:
    done = command(user, "plan", "flash-chat", "--memory", "80", "--attention-memory", "141")
    assert re.search(r"all experts .* 1,082 GB .* 541\.2 GB", done.stdout), done.stdout
