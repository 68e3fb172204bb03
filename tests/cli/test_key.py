"""`caracal key`: keys, and the file that has their hashes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.router.access.keys import ApiKey, ApiKeys


def test_a_key_is_shown_once_and_its_file_has_the_hash(tmp_path: Path) -> None:
    run, file = CliRunner(), tmp_path / "keys.toml"
    first = run.invoke(app, ["key", "alice", "--file", str(file), "--requests-per-minute", "60", "--admin"])
    second = json.loads(run.invoke(app, ["key", "b@x.y", "--file", str(file), "--json"]).output)
    (secret,) = re.findall(r"caracal-\S+", first.output)
    keys = ApiKeys.read(file)
    alice, bob = keys.find(secret), keys.find(second["key"])
    assert alice is not None
    assert (alice.name, alice.requests_per_minute, alice.admin) == ("alice", 60, True)
    assert bob == ApiKey(name="b@x.y", sha256=tomllib.loads(second["section"])["b@x.y"]["sha256"])
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["a b"], 2, "'a b' is no name of a key"),
        (["a", "--weight", "0"], 2, "a.weight: is not a number"),
        (["a", "--concurrent", "-1"], 2, "a.concurrent: is not a whole number"),
        (["taken", "--file", "{}"], 1, "keys.toml: taken has a key already"),
        (["a", "--file", "/nonexistent/keys.toml"], 1, "No such file"),
        (["a", "--file", "/dev/zero"], 1, "not a regular file"),
        (["a", "--file", "/"], 1, "Is a directory"),
        (["caracal-" + "x" * 43, "--file", "{}"], 2, "a section has a key as its name"),
    ],
)
def test_what_cannot_be_made_leaves_the_file_as_it_was(tmp_path: Path, words: list[str], code: int, why: str) -> None:
    file = tmp_path / "keys.toml"
    assert CliRunner().invoke(app, ["key", "taken", "--file", str(file)]).exit_code == 0
    before = file.read_bytes()
    failed = CliRunner().invoke(app, ["key", *(word.format(file) for word in words)])
    assert failed.exit_code == code
    assert why in failed.output
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["keys.toml"]


def test_a_file_that_is_none_of_keys_is_named_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_bytes(b"\xff")
    failed = CliRunner().invoke(app, ["key", "a", "--file", str(file)])
    assert failed.exit_code == 1
    assert "keys.toml: not UTF-8 at byte 0" in failed.output
    assert file.read_bytes() == b"\xff"


def test_who_may_read_the_file_may_read_it_afterwards_also_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "keys.toml", tmp_path / "link.toml"
    assert CliRunner().invoke(app, ["key", "a", "--file", str(file)]).exit_code == 0
    file.chmod(0o640)
    link.symlink_to(file.name)
    assert CliRunner().invoke(app, ["key", "b", "--file", str(link)]).exit_code == 0
    assert link.is_symlink()
    assert ApiKeys.read(file).names == {"a", "b"}
    assert file.stat().st_mode & 0o777 == 0o640
