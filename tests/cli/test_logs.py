"""`caracal logs`: which lines are shown, in which form and order, of this machine's cluster and of pods."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.kube_api import FakeApi
from support.kube_command import error_line, run, write_kubeconfig
from support.user_commands import COMMAND, command, lines_until, new_user, one_line

from services.cli.log_lines import last, parse, parse_all, parse_since, since
from services.cli.run_state import RunState, save

pytestmark = pytest.mark.processes
NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)


def line(worker: str, event: str, age_s: float = 0.0, level: str = "info", **more: object) -> str:
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat().replace("+00:00", "Z")
    role = worker.partition("-")[0]
    return json.dumps({**more, "event": event, "level": level, "ts": at, "role": role, "worker_id": worker}) + "\n"


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    return new_user(tmp_path)


@pytest.fixture
def folder(user: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log folder of a cluster that counts as running because this process does."""
    logs = tmp_path / "logs"
    logs.mkdir()
    monkeypatch.setenv("HOME", user["HOME"])
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    save(RunState(pid=os.getpid(), url="http://127.0.0.1:1", redis_url="redis://127.0.0.1:1", directory=str(logs)))
    (logs / "router-0.log").write_text(line("router-0", "router listens", 100) + line("router-0", "request", 2, ms=5))
    text = line("expert-0", "experts are ready", 50) + "Traceback\n" + line("expert-0", "lost", 1, level="error")
    (logs / "expert-0.log").write_text(text)
    (logs / "expert-10.log").write_text("")
    return logs


def test_roles_are_interleaved_by_time_behind_their_names(user: dict[str, str], folder: Path) -> None:
    done = command(user, "logs")
    assert done.returncode == 0, done.stderr
    shown = [(one.partition(" | ")[0].strip(), one.partition(" | ")[2]) for one in done.stdout.splitlines()]
    assert [name for name, _ in shown] == ["router-0", "expert-0", "expert-0", "router-0", "expert-0"]
    assert [text.partition(" ")[2] for _, text in shown] == [
        "info router listens",
        "info experts are ready",
        "",
        "info request ms=5",
        "error lost",
    ]
    assert shown[2][1] == "Traceback", "a line without a time stays behind the one before it"
    assert "\033" not in done.stdout


def test_control_characters_of_a_line_are_not_obeyed(user: dict[str, str], folder: Path) -> None:
    (folder / "redis.log").write_text("a\x1b]0;title\x07b\n")
    assert command(user, "logs", "redis").stdout == "redis | a]0;titleb\n"


def test_tail_and_since_count_per_worker(user: dict[str, str], folder: Path) -> None:
    assert [one[:8] for one in command(user, "logs", "--tail", "1").stdout.splitlines()] == ["router-0", "expert-0"]
    assert "listens" not in command(user, "logs", "--since", "75s").stdout
    assert command(user, "logs", "--tail", "0").stdout == ""
    assert command(user, "logs", "router-0", "--since", "1h").stdout.count("\n") == 2


def test_json_lines(user: dict[str, str], folder: Path) -> None:
    found = [json.loads(one) for one in command(user, "logs", "expert-0", "--json").stdout.splitlines()]
    assert [one["event"] for one in found] == ["experts are ready", "Traceback", "lost"]
    assert {one["worker"] for one in found} == {"expert-0"}
    assert all(one["ts"] for one in found)


def test_follow_shows_new_lines_and_new_workers_and_ends_with_ctrl_c(user: dict[str, str], folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "logs", "-f", "--tail", "1"], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines_until(process, "lost")
            half = line("router-0", "half")
            with (folder / "router-0.log").open("a") as file:
                file.write(half[:20])
                file.flush()
                time.sleep(0.5)
                file.write(half[20:])
            (folder / "attention-1.log").write_text(line("attention-1", "joined"))
            output = lines_until(process, "joined|half")
            output += lines_until(process, "joined|half")
            assert "info half" in output
            assert "attention-1 | " in output
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_follow_ends_when_the_cluster_has_stopped(user: dict[str, str], folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "logs", "-f"], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines_until(process, "lost")
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            _, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, "caracal: the cluster has stopped\n")
        finally:
            process.kill()


def test_what_cannot_be_shown_is_one_line(user: dict[str, str], folder: Path, tmp_path: Path) -> None:
    done = command(user, "logs", "expert-7")
    assert "there is no expert-7; there are router-0, expert-0, expert-10" in one_line(done)
    assert done.returncode == 1
    bad = command(user, "logs", "--since", "yesterday")
    assert ("--since is 'yesterday'" in one_line(bad), bad.returncode) == (True, 2)
    elsewhere = user | {"CARACAL_REDIS_URL": "redis://127.0.0.1:1"}
    assert "was not started here" in one_line(command(elsewhere, "logs"))
    (tmp_path / "other").mkdir()
    assert "no cluster is running here" in one_line(command(new_user(tmp_path / "other"), "logs"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5), ("1d2h3m4s", 93784)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_since(text, NOW) == NOW - timedelta(seconds=seconds)


def test_times() -> None:
    assert parse_since("2026-11-29T11:00:00Z", NOW) == NOW - timedelta(hours=1)
    assert parse_since("2026-11-29T12:00:00+01:00", NOW) == NOW - timedelta(hours=1)
    for text in ("", "5", "m", "5x", "-5m", "5m 3s"):
        with pytest.raises(ValueError, match="--since is"):
            parse_since(text, NOW)


def test_lines_of_redis_have_a_time() -> None:
    found = parse("redis", "123:M 29 Nov 2026 12:00:00.587 * Ready to accept connections")
    assert found.at
    assert found.at.astimezone().strftime("%H:%M:%S") == "12:00:00"
    assert found.shown().endswith("Ready to accept connections")
    assert parse("redis", "123:M 99 Foo 2026 12:00:00.587 * x").at is None


def test_lines_that_are_no_log_lines_are_shown_as_they_are() -> None:
    texts = ['{"ts": 5}', '{"ts": "x"}', "{", "plain", "", '{"a":' + "[" * 100_000]
    found = list(parse_all("w", texts, before=NOW))
    assert [one.shown() for one in found] == [text for text in texts if text]
    assert since(found, NOW) == found
    assert last(found, 2) == found[-2:]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with FakeApi() as server:
        write_kubeconfig(tmp_path / "config", server.url)
        server.logs = {
            "caracal-router-0": line("caracal-router-0", "router listens", 9),
            "caracal-attention-0": line("caracal-attention-0", "first", 8) + line("caracal-attention-0", "second", 2),
            "caracal-expert-0": line("caracal-expert-0", "ready", 5),
        }
        yield server


@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_logs_of_pods(api: FakeApi, follow: tuple[str, ...]) -> None:
    code, output = run("logs", "--context", "lab", *follow)
    assert code == 0, output
    lines = output.splitlines()
    assert len(lines) == 4
    if not follow:
        assert [one.split(" info ")[1] for one in lines] == ["router listens", "first", "ready", "second"]
    assert {one.partition(" | ")[0].strip() for one in lines} == set(api.logs)
    code, output = run("logs", "attention-0", "--context", "lab", "--tail", "1", "--json", *follow)
    assert json.loads(output)["event"] == "second"


def test_pods_that_are_not_there_or_have_no_log(api: FakeApi) -> None:
    found = error_line("logs", "expert-3", "--context", "lab")
    assert "has no pod expert-3; it has caracal-attention-0, caracal-expert-0, caracal-router-0" in found
    why = "the API server of lab answers 400: container of caracal-expert-0 is waiting to start"
    del api.logs["caracal-expert-0"]
    for follow in ((), ("-f",)):
        code, output = run("logs", "--context", "lab", *follow)
        assert (code, f"caracal: {why}" in output, "router listens" in output) == (0, True, True), (
            "the others are shown"
        )
        assert why in error_line("logs", "expert-0", "--context", "lab", *follow)
    api.logs.clear()
    code, output = run("logs", "--context", "lab")
    assert (code, output.count("is waiting to start")) == (1, 3)
