"""The cluster key: where it comes from, how it is replaced, and that nothing shows it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from services.expert_worker.settings import ExpertSettings
from services.local.cluster import given_key
from services.process.settings import InvalidSetting
from services.security import cluster_key
from services.security.cluster_key import LOOK_S, NO_KEY, BadKey, ClusterKey, warn_without

SECRET, OTHER = "s3cret-of-the-cluster", "another-key-of-it-too"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"CLUSTER_KEY": "fifteen-bytes.."}, "CARACAL_CLUSTER_KEY: a key needs at least 16 bytes"),
        ({"CLUSTER_KEY": "   \n "}, "CARACAL_CLUSTER_KEY: there is no key in it"),
        ({"CLUSTER_KEY_FILE": "/nonexistent/key"}, "CARACAL_CLUSTER_KEY_FILE"),
        ({"CLUSTER_KEY_FILE": "/dev/zero"}, "not a file"),
        ({"CLUSTER_KEY": SECRET, "CLUSTER_KEY_FILE": "/etc/hostname"}, "both given"),
        ({"CLUSTER_KEY": "\udcff" * 16}, "not UTF-8"),
    ],
)
def test_a_bad_key_is_named_and_not_shown(env: dict[str, str], words: str) -> None:
    given = {"CARACAL_MODEL": "/"} | {f"CARACAL_{name}": value for name, value in env.items()}
    with pytest.raises(InvalidSetting) as raised:
        ExpertSettings.from_env(given)
    assert words in str(raised.value)
    assert not any(value in str(raised.value) for name, value in env.items() if name == "CLUSTER_KEY")


def test_settings_that_are_printed_do_not_show_it() -> None:
    settings = ExpertSettings.from_env({"CARACAL_MODEL": "/", "CARACAL_CLUSTER_KEY": SECRET})
    assert settings.open_cluster_key().given
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "data",
    [b"", b"short\n", b"\xff" * 32, b"k" * (20 << 10), SECRET.encode() + b"\nshort"],
    ids=["empty", "short", "bytes", "long", "second"],
)
def test_a_bad_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(BadKey, match="key: "):
        ClusterKey(file=tmp_path / "key")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    with pytest.raises(BadKey, match="not a file"):
        ClusterKey(file=tmp_path / "key")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LOOK_S + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_is_read_again_and_both_keys_verify_while_it_names_both(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    key, old, new = ClusterKey(file=file), ClusterKey(SECRET), ClusterKey(OTHER)
    assert key.verifies("x") == old.verifies("x")
    (tmp_path / "next").write_text(f"\n{OTHER}\n{SECRET}\n")
    (tmp_path / "next").replace(file)  # as kubelet does
    until(lambda: key.signs("x") == new.signs("x"))
    assert key.verifies("x") == (new.signs("x"), old.signs("x"))


def test_a_file_that_becomes_unusable_changes_nothing_and_is_logged_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    key = ClusterKey(file=file)
    before = key.signs("x")
    with structlog.testing.capture_logs() as logs:
        file.unlink()
        until(lambda: key.signs("x") == before and bool(logs))
        time.sleep(LOOK_S + 0.1)
        assert key.signs("x") == before
        assert len(logs) == 1
        file.write_text(OTHER)
        until(lambda: key.signs("x") == ClusterKey(OTHER).signs("x"))
    assert not any(secret in str(logs) for secret in (SECRET, OTHER))


def test_a_file_that_could_not_be_used_is_tried_again_though_it_looks_the_same(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    key = ClusterKey(file=file)
    with structlog.testing.capture_logs() as logs:
        file.write_text("short".ljust(len(OTHER)))
        changed = file.stat().st_mtime_ns
        until(lambda: key.verifies("x") != () and bool(logs))
        file.write_text(OTHER)
        os.utime(file, ns=(changed, changed))  # as when it could not be read, and may be now
        until(lambda: key.signs("x") == ClusterKey(OTHER).signs("x"))


def test_labels_have_secrets_of_their_own() -> None:
    key = ClusterKey(SECRET)
    assert len({key.signs("a"), key.signs("b"), SECRET.encode()}) == 3


def test_kubernetes_without_a_key_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with structlog.testing.capture_logs() as logs:
        warn_without(NO_KEY)
        assert not logs
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        warn_without(ClusterKey(SECRET))
        assert not logs
        warn_without(NO_KEY)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert cluster_key.MIN_KEY_BYTES == 16


@pytest.mark.parametrize(
    ("text", "named", "words"),
    [
        ("short", "", "CARACAL_CLUSTER_KEY: a key"),
        ("", "/none", "CARACAL_CLUSTER_KEY_FILE: /none"),
        (SECRET, "/x", "both"),
    ],
)
def test_a_local_cluster_says_what_is_wrong_before_it_leaves_anything(
    monkeypatch: pytest.MonkeyPatch, text: str, named: str, words: str
) -> None:
    monkeypatch.setenv("CARACAL_CLUSTER_KEY", text)
    monkeypatch.setenv("CARACAL_CLUSTER_KEY_FILE", named)
    with pytest.raises(InvalidSetting, match=words):
        given_key()
