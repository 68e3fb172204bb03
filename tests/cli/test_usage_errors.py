"""What a command cannot use is one line on stderr, and exit code 2 for wrong usage, 1 for a failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.user_commands import command, new_user, one_line
from typer.main import get_command
from typer.testing import CliRunner

from services.cli.app import app

ROOT: Any = get_command(app)
NEEDED = {"generate": ["hi"], "scale": ["expert=1"], "key": ["alice"], "plan": ["flash-chat"]}
SERVER = ["--base-url", "http://127.0.0.1:9"]
Line = Callable[..., str]
"""Runs a command, and returns the one line that it prints."""
SUITE = "bench suite"  # its arguments are parsed in bench/


def commands() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, one in ROOT.commands.items():
        inner = getattr(one, "commands", {})
        found |= {f"{name} {part}": each for part, each in inner.items()} or {name: one}
    return found


COMMANDS = commands()
PARSED = sorted(set(COMMANDS) - {SUITE})


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster runs for this user."""
    for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("CARACAL_URL", "CARACAL_API_KEY", "OPENAI_API_KEY", "CARACAL_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def line_of(capsys: pytest.CaptureFixture[str]) -> Line:
    def run(name: str, *words: str, code: int = 2) -> str:
        with pytest.raises(SystemExit) as ended:
            ROOT.main([*name.split(), *words], "caracal")
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out) == (code, ""), shown
        assert re.fullmatch(r"caracal: [^\n]+\n", shown.err), shown.err
        return shown.err

    return run


def options(name: str) -> list[Any]:
    return [one for one in COMMANDS[name].params if one.param_type_name == "option" and not one.is_flag]


@pytest.mark.parametrize("name", PARSED)
def test_an_option_that_there_is_not(line_of: Line, name: str) -> None:
    for word in ("--no-such", "--no-such=1", "-Z"):
        assert f"no such option: {word[:9]}" in (line := line_of(name, word))
        assert f"(see caracal {name} --help)" in line


@pytest.mark.parametrize("name", PARSED)
def test_an_option_without_its_value_or_with_one_of_another_kind(line_of: Line, name: str) -> None:
    needed = SERVER if name == "bench serve" else NEEDED.get(name, [])
    for option in options(name):
        assert option.opts[0] in line_of(name, *needed, option.opts[0])
        kind = option.type_descriptor.annotation
        for value in {int: ("x", "1.5"), float: ("\x1b[31m\n", "nan")}.get(kind, ()):
            line = line_of(name, *needed, option.opts[0], value)
            assert any(label in line for label in (*option.opts, option.name)), line
            assert "\x1b" not in line


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_an_argument_that_is_missing(line_of: Line, name: str) -> None:
    assert "missing argument" in line_of(name)


@pytest.mark.parametrize("name", ["status", "top", "chat", "bench serve", "up", "generate", "key", "plan"])
def test_an_argument_too_many(line_of: Line, name: str) -> None:
    assert "unexpected extra argument" in line_of(name, *NEEDED.get(name, []), "a\nb", "c")


@pytest.mark.parametrize("name", ["generate", "chat", "status", "top", "bench serve"])
def test_what_is_no_url(line_of: Line, name: str) -> None:
    option = next(one for one in options(name) if one.opts[0] in ("--url", "--gateway", "--base-url")).opts[0]
    for url in (
        "http://a b",
        "http://[::1",
        "http://h:99999",
        "ftp://h",
        "http://h/a\nb",
        "http://\udcff",
        "http://h:x",
    ):
        assert option in line_of(name, *NEEDED.get(name, []), option, url)


@pytest.mark.parametrize(
    ("name", "words", "code", "why"),
    [
        ("generate", ["--api-key", "a\nb"], 2, "--api-key has characters"),
        ("chat", ["--api-key", "ü"], 2, "--api-key has characters"),
        ("chat", ["--system", "\udcff"], 2, "--system is not UTF-8"),
        ("chat", ["--tools", "/nonexistent"], 2, "--tools /nonexistent: No such file"),
        ("chat", ["--tools", "/"], 2, "--tools /: Is a directory"),
        ("chat", ["--tools", __file__], 2, "--tools"),
        ("plan", ["--memory", "nan"], 2, "--memory"),
        ("plan", ["--memory", "inf"], 2, "--memory is inf: must be a finite number"),
        ("up", ["/nonexistent"], 2, "/nonexistent"),
        ("up", ["--max-itl-ms", "nan"], 2, "--max-itl-ms"),
        ("settings", ["no-such"], 2, "there is no setting"),
        ("key", ["--file", "/"], 1, "/: Is a directory"),
        ("key", ["--file", "/nonexistent/keys.toml"], 1, "No such file"),
        ("logs", ["--since", "a\nb"], 2, "--since"),
        ("scale", ["attention=\n1"], 2, "is not a whole number"),
        ("scale", [], 1, "no cluster is running here"),
        ("status", ["--context", "nope"], 1, "--context nope"),
        ("status", ["--gateway", ""], 2, "--gateway is empty"),
        (
            "bench serve",
            ["--dataset-name", "custom", "--dataset-path", "/nonexistent"],
            2,
            "--dataset-path /nonexistent",
        ),
        ("bench serve", ["--extra-body", '{"a": NaN}'], 2, "--extra-body"),
        ("bench serve", ["--header", "a b=c"], 2, "--header"),
        ("bench serve", ["--header", "a=b\nc"], 2, "--header"),
        ("bench serve", ["--goodput", "ttft:nan"], 2, "--goodput"),
        ("bench serve", ["--save-result", "--result-dir", "/proc/nowhere"], 1, "/proc/nowhere: No such file"),
    ],
    ids=range(24),
)
def test_options_and_files_that_cannot_be_used(line_of: Line, name: str, words: list[str], code: int, why: str) -> None:
    needed = SERVER if name == "bench serve" else NEEDED.get(name, [])
    assert why in line_of(name, *needed, *words, code=code)


def test_without_a_command_and_with_one_that_there_is_not(line_of: Line) -> None:
    shown = CliRunner().invoke(app, [])
    assert (shown.exit_code, "Usage: caracal" in shown.output) == (2, True)
    assert "Did you mean 'status'" in line_of("statu")


@pytest.mark.processes
def test_processes_say_it_as_well(tmp_path: Path) -> None:
    user = new_user(tmp_path)
    for words, code in (
        (["generate", b"\xff"], 2),
        (["status", "--no-such"], 2),
        (["bench", "--no-such"], 2),
        (["top"], 1),
    ):
        done = command(user, *words)  # bytes that are no text
        assert (done.returncode, bool(one_line(done))) == (code, True)
        assert done.stdout == ""


@pytest.mark.parametrize("words", [("fetch", "hf://org/model@v1", "m"), ("prune", "m"), ("manifest", "s3://weights/m")])
def test_a_log_level_that_is_none_ends_a_command_of_a_job(
    line_of: Line, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CARACAL_LOG_LEVEL", "loud")
    assert line_of(*words) == "caracal: CARACAL_LOG_LEVEL is 'LOUD': must be DEBUG, INFO, WARNING or ERROR\n"
