"""docs/compatibility.md lists the clients and features that are declared, in the versions that are pinned."""

from __future__ import annotations

import pytest
from compat.declared import CLIENTS, FOLDER, Client
from compat.environments import version
from compat.features import FEATURES
from compat.page import PAGE, Outcome, markdown, rows


def test_a_row_for_every_declared_client() -> None:
    assert list(rows(PAGE.read_text())) == [client.title for client in CLIENTS]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_row_shows_the_declared_features(client: Client) -> None:
    shown, *cells = rows(PAGE.read_text())[client.title]
    assert shown == version(client)
    assert [feature for feature, cell in zip(FEATURES, cells, strict=True) if cell != "–"] == client.features()


def test_every_module_is_declared() -> None:
    assert {path.name for path in (FOLDER / "clients").glob("*.*")} == {client.module for client in CLIENTS}
    assert all(client.features() for client in CLIENTS)


def test_a_failure_is_shown_with_its_reason() -> None:
    first, second, third = CLIENTS[:3]
    works = dict.fromkeys(first.features(), "")
    outcomes = [
        Outcome(first, "1", works | {"chat": "Error: no"}),
        Outcome(second, "2", {}, "no wheel"),
        Outcome(third, "3", {"chat": ""}),
    ]
    text = markdown(outcomes)
    assert rows(text)[first.title][:3] == ["1", "**✗**", "✓"]
    assert f"* {first.title}, chat: Error: no\n" in text
    assert f"* {second.title}: not installed here: no wheel\n" in text
    assert f"* {third.title}, streaming: the run ended before it\n" in text
