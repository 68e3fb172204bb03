"""Every command: an example in its help, a row in docs/commands.md, exit codes as that table has them; completion."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.documented_commands import REPO
from support.user_commands import command, completed, new_user
from typer.main import get_command
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.settings import names

PAGE = (REPO / "docs" / "commands.md").read_text()
WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def all_commands() -> dict[str, Any]:
    root: Any = get_command(app)
    found: dict[str, Any] = {}
    for name, one in root.commands.items():
        inner = getattr(one, "commands", {})
        found |= {f"{name} {part}": each for part, each in inner.items()} or {name: one}
    return found


@pytest.mark.parametrize("name", sorted(all_commands()))
def test_help_has_an_example_and_the_page_has_the_command(name: str) -> None:
    if name != "bench suite":  # its help is that of bench/
        shown = CliRunner().invoke(app, [*name.split(), "--help"], env=WIDE)
        assert shown.exit_code == 0
        assert re.search(rf"Example: caracal {name} ?", shown.output), shown.output
    assert re.search(rf"`caracal {name}[ `]", PAGE)


def test_commands_that_read_have_json() -> None:
    for name in ("status", "top", "logs", "settings", "plan", "scale", "bench serve"):
        options = {each for parameter in all_commands()[name].params for each in parameter.opts}
        assert "--json" in options, name


def test_exit_codes_of_the_page(tmp_path: Path) -> None:
    table = dict(re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE, re.M))
    assert set(table) == {"0", "1", "2", "3", "130"}
    for code, words in {
        0: ["--version"],
        1: ["status", "--gateway", "http://127.0.0.1:9"],
        2: ["status", "--no-such-option"],
    }.items():
        assert CliRunner().invoke(app, words).exit_code == code, words


def test_settings_by_name() -> None:
    run = CliRunner()
    found = json.loads(run.invoke(app, ["settings", "max-itl-ms", "CARACAL_TP", "--json"]).output)
    assert {one["name"] for one in found} == {"CARACAL_MAX_ITL_MS", "CARACAL_TP"}
    assert {one["name"] for one in json.loads(run.invoke(app, ["settings", "--json"]).output)} == set(names())
    wrong = run.invoke(app, ["settings", "max_itl"], env=WIDE)
    assert wrong.exit_code == 2
    assert "there is no setting CARACAL_MAX_ITL; did you mean CARACAL_MAX_ITL_MS" in wrong.output
    assert run.invoke(app, ["settings", "tp", "--markdown"]).exit_code == 2


@pytest.mark.parametrize("width", ["80", "60", "40"])
@pytest.mark.parametrize("words", [["settings"], ["plan", "flash-lite"]])
def test_tables_are_never_cut(width: str, words: list[str]) -> None:
    shown = CliRunner().invoke(app, words, env={"COLUMNS": width})
    assert shown.exit_code == 0
    assert "…" not in shown.output
    assert max(map(len, shown.output.splitlines())) <= int(width)


def test_plan_as_json() -> None:
    found = json.loads(CliRunner().invoke(app, ["plan", "flash-chat", "--json"]).output)
    assert found["sizes"]["experts"] == 28 * 512
    assert found["plans"]["fp8"]["expert_workers"] == 7


@pytest.mark.processes
def test_completion_of_commands_options_and_settings(tmp_path: Path) -> None:
    user = new_user(tmp_path)
    assert completed(user, "caracal s") == ["serve", "status", "scale", "settings"]
    assert "serve" in completed(user, "caracal bench ")
    assert completed(user, "caracal status --num") == ["--numerics"]
    assert completed(user, "caracal settings CARACAL_MAX_I") == ["CARACAL_MAX_ITL_MS"]
    assert completed(user, "caracal settings max_i") == ["max_itl_ms"]
    assert completed(user, "caracal logs r") == [], "no cluster is running"


@pytest.mark.processes
def test_what_is_no_command_of_bench_goes_to_the_suite(tmp_path: Path) -> None:
    for words in (["--no-such"], ["suite", "--no-such"]):
        done = command(new_user(tmp_path) if words[0] != "suite" else new_user(tmp_path / "tmp"), "bench", *words)
        assert done.returncode == 2
        assert "unrecognized arguments: --no-such" in done.stderr
    shown = CliRunner().invoke(app, ["bench", "--help"], env=WIDE).output
    assert re.search(r"serve .*Load an OpenAI-compatible server", shown)
    assert re.search(r"suite .*Measure this project", shown)


@pytest.mark.processes
def test_the_script_for_the_shell(tmp_path: Path) -> None:
    user = new_user(tmp_path) | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = command(user, "--show-completion", "bash")
    assert "_CARACAL_COMPLETE=complete_bash" in done.stdout, done.stderr
