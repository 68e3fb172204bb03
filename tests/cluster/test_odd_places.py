"""`caracal up` where something of the surroundings is odd: proxies, a full folder, another user's, a poor terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from support.user_commands import COMMAND, command, lines_until, one_line, up

from services.process.children import import_path

pytestmark = pytest.mark.processes

END = "Ctrl-C stops everything"
NOWHERE = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy")


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> None:
    process.send_signal(number)
    assert process.wait(30) == 0


def test_proxies_of_the_environment_are_not_for_members_of_a_cluster(user: dict[str, str], model: Path) -> None:
    user |= dict.fromkeys(PROXIES, NOWHERE)
    with up(user, "--model", str(model), "--port", "0", "--link", "grpc") as process:
        lines_until(process, END)
        assert command(user, "generate", "the cat", "--max-tokens", "4").returncode == 0
        assert command(user, "status").returncode == 0
        stop(process)


def test_a_folder_with_modules_of_the_users_own_is_no_matter(user: dict[str, str], model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("queue", "redis", "grpc", "typing", "services", "torch"):
        (folder / f"{name}.py").write_text("raise SystemExit('a module of the working directory was imported')")
    with up(user, "--model", str(model), "--port", "0", "--tp", "2", folder=folder) as process:
        lines_until(process, END)
        stop(process)


def test_children_find_what_their_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend("")
    entries = import_path().split(os.pathsep)
    assert str(tmp_path) not in entries
    assert "" not in entries
    root = Path(__file__).resolve().parents[2]
    assert str(root) in entries
    monkeypatch.chdir(root)
    assert str(root) in import_path().split(os.pathsep)


@pytest.mark.parametrize("kind", ["missing", "file", "foreign", "read-only"])
def test_a_runtime_directory_that_is_no_use_is_as_none(
    user: dict[str, str], model: Path, tmp_path: Path, kind: str
) -> None:
    runtime = tmp_path / "runtime"
    if kind == "file":
        runtime.write_text("")
    elif kind != "missing":
        runtime.mkdir(mode=0o500 if kind == "read-only" else 0o700)
    if kind == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can make a folder of another user")
        os.chown(runtime, 12345, 12345)
    user["XDG_RUNTIME_DIR"] = str(runtime)
    assert "no cluster is running" in one_line(command(user, "status"))
    if kind in ("foreign", "missing"):
        with up(user, "--model", str(model), "--port", "0") as process:
            lines_until(process, END)
            assert command(user, "status").returncode == 0
            assert list((tmp_path / ".cache" / "caracal").iterdir())
            stop(process)


def test_a_cluster_serves_on_where_its_state_cannot_be_kept(user: dict[str, str], model: Path, tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file, where a folder should be")
    with up(user, "--model", str(model), "--port", "0") as process:
        output = lines_until(process, END)
        url = re.search(r"serves at (\S+)", output)
        assert url
        assert command(user, "generate", "the cat", "--url", url[1], "--max-tokens", "4").returncode == 0
        stop(process)
        assert process.stderr
        assert f"CARACAL_URL={url[1]} CARACAL_REDIS_URL=redis://" in process.stderr.read()


def test_a_terminal_without_unicode_gets_plain_characters(user: dict[str, str], model: Path) -> None:
    user["PYTHONIOENCODING"] = "ascii"
    with up(user, "--model", str(model), "--port", "0", "--expert", "2") as process:
        lines_until(process, END)
        shown = command(user, "status")
        assert shown.returncode == 0, shown.stderr
        assert " - epoch " in shown.stdout
        assert command(user, "generate", "naïve 猫", "--max-tokens", "30").returncode == 0
        stop(process)
    done = command(user, "plan", "/nowhere/猫")
    assert (done.returncode, "/nowhere/?" in done.stderr) == (2, True)


def test_a_closed_terminal_ends_the_cluster_in_order(user: dict[str, str], model: Path) -> None:
    with up(user, "--model", str(model), "--port", "0") as process:
        lines_until(process, END)
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGHUP)
        process.wait(30)
        _, left = psutil.wait_procs(children, timeout=1)
        assert not left
    assert not list(Path(user["TMPDIR"]).iterdir()), "its folder is gone, too"


def test_nohup_keeps_it(user: dict[str, str], model: Path) -> None:
    line = ["nohup", *COMMAND, "up", "--model", str(model), "--port", "0"]
    process = subprocess.Popen(line, env=user, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        lines_until(process, END)
        workers = [child for child in psutil.Process(process.pid).children() if "services" in str(child.cmdline())]
        assert len(workers) == 3
        for each in (process.pid, *(worker.pid for worker in workers)):
            os.kill(each, signal.SIGHUP)
        assert command(user, "generate", "the cat", "--max-tokens", "4").returncode == 0
        assert command(user, "status").returncode == 0
        stop(process)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("host", "link"),
    [("::1", "nccl"), ("::1", "grpc"), ("[::1]", ""), ("0.0.0.0", ""), ("::", ""), ("localhost", "")],
)
def test_the_host_is_the_gateways_and_workers_stay_on_loopback(
    user: dict[str, str], model: Path, host: str, link: str
) -> None:
    user["CARACAL_HOST"] = host  # as an option or as a variable
    with up(user, "--model", str(model), "--port", "0", *(("--link", link) if link else ())) as process:
        output = lines_until(process, END)
        url = re.search(r"serves at (http://\S+)", output)
        assert url
        loopback = r"\[::1\]" if ":" in host else "localhost" if host == "localhost" else r"127\.0\.0\.1"
        assert re.fullmatch(rf"http://{loopback}:\d+", url[1])
        assert command(user, "generate", "the cat", "--url", url[1], "--max-tokens", "4").returncode == 0
        shown = command(user, "status", "--gateway", url[1])
        assert shown.returncode == 0, shown.stderr
        workers_at = r"\[::1\]" if ":" in host else r"127\.0\.0\.1"
        assert len(re.findall(rf"{workers_at}:\d+", shown.stdout)) >= 3, (
            "of both workers, and the router's own for admins"
        )
        everywhere = {
            connection.laddr.ip.removeprefix("::ffff:")  # as gRPC listens on IPv4
            for child in psutil.Process(process.pid).children()
            if "router" not in child.environ().get("CARACAL_WORKER_ID", "")
            for connection in child.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert everywhere <= {"127.0.0.1", "::1"}
        if host == "::":
            port = int(url[1].rpartition(":")[2])
            socket.create_connection(("127.0.0.1", port), 5).close()
        stop(process)


def test_a_host_of_another_machine_is_named(user: dict[str, str], model: Path) -> None:
    for host in ("192.0.2.1", "2001:db8::1", "no-such-host.invalid"):
        line = one_line(command(user, "up", "--model", str(model), "--host", host, "--port", "0"))
        assert f"--host is '{host}': cannot listen on" in line


def test_few_open_files_are_named(user: dict[str, str], model: Path) -> None:
    line = f"ulimit -n 300; exec {' '.join(COMMAND)} up --model {model} --port 0"
    process = subprocess.Popen(["sh", "-c", line], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines_until(process, END)
        stop(process)
        assert process.stderr
        warned = [json.loads(text) for text in process.stderr if "few files may be open" in text]
        assert [each["limit"] for each in warned] == [300]
    finally:
        process.kill()
        process.communicate()
