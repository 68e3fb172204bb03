"""Settings of the console, and what `caracal up` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.up import usage
from services.local.settings import DEFAULT_MODEL
from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

MODEL = {"CARACAL_MODEL": str(DEFAULT_MODEL)}


def test_a_short_token_is_rejected_without_being_shown() -> None:
    with pytest.raises(InvalidSetting, match="CARACAL_CONSOLE_TOKEN is too short: at least 16") as caught:
        RouterSettings.from_env(MODEL | {"CARACAL_CONSOLE_TOKEN": "secret"})
    assert "secret" not in str(caught.value)
    assert RouterSettings.from_env(MODEL | {"CARACAL_CONSOLE_TOKEN": "s" * 16}).console_token == "s" * 16


def test_the_command_has_a_role_and_a_count() -> None:
    with pytest.raises(InvalidSetting, match="lacks ROLE or COUNT"):
        RouterSettings.from_env(MODEL | {"CARACAL_CONSOLE_SCALE_COMMAND": "scale ROLE"})


def test_the_console_is_on_unless_it_is_switched_off() -> None:
    assert RouterSettings.from_env(MODEL).console
    assert not RouterSettings.from_env(MODEL | {"CARACAL_CONSOLE": "0"}).console


def test_up_prints_the_url_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARACAL_CONSOLE", raising=False)
    assert "http://a:2/console/#token=abc\n" in usage("http://h:1", Path("m"), console=("http://a:2", "abc"))
    monkeypatch.setenv("CARACAL_CONSOLE", "0")
    assert "console" not in usage("http://h:1", Path("m"), console=("http://a:2", "abc"))
