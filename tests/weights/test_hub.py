"""Models of a hub, fetched over its protocol: which files, whose digests; killed, broken off, damaged, proxied."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fetched_files import LARGE, SMALL, fetched, model_files, read, wanted
from support.user_commands import COMMAND, command, new_user, one_line
from support.weight_stores import COMMIT, REPOSITORY, Hub, Proxy

from services.weights.address import parse_address
from services.weights.errors import BadSource, Damaged, SourceUnavailable
from services.weights.folder import Folder
from services.weights.hub import HubSource

ADDRESS = f"hf://{REPOSITORY}@v1"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(model_files()) as server:
        yield server


def source(hub: Hub, address: str = ADDRESS) -> HubSource:
    return HubSource(parse_address(address), hub.url)


def test_everything_that_is_read_is_fetched_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    done = fetched(source(hub), tmp_path / "model")
    assert read(tmp_path / "model") == wanted(hub.files)
    assert (done.address, done.scope) == (ADDRESS, "all")
    assert done.sizes == {name: len(content) for name, content in wanted(hub.files).items()}


def test_routers_need_no_weights(hub: Hub, tmp_path: Path) -> None:
    fetched(source(hub), tmp_path, weights=False)
    assert read(tmp_path) == wanted(hub.files, weights=False)
    fetched(source(hub), tmp_path)
    assert read(tmp_path) == wanted(hub.files)
    assert hub.begins("tokenizer.json") == [0], "what was there stays"


def test_a_complete_folder_is_not_fetched_again_and_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    found = source(hub)
    fetched(found, tmp_path)
    asked = len(hub.ranges)
    hub.faults.refused = 100
    fetched(found, tmp_path)
    assert len(hub.ranges) == asked


def test_a_branch_is_held_to_its_commit(hub: Hub) -> None:
    found = source(hub)
    found.files()
    assert (found.address, found.pinned) == (ADDRESS, f"hf://{REPOSITORY}@{COMMIT}")


def test_what_breaks_off_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.faults.cut_after[LARGE] = 600_000
    fetched(source(hub), tmp_path)
    assert read(tmp_path)[LARGE] == hub.files[LARGE]
    assert hub.begins(LARGE) == [0, 600_000, 1_200_000]


def test_a_hub_that_is_overloaded_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults.refused = 2
    fetched(source(hub), tmp_path)
    assert read(tmp_path) == wanted(hub.files)
    hub.faults.refused = 1000
    with pytest.raises(SourceUnavailable, match="answers 503"):
        fetched(source(hub), tmp_path, verify=True)


def test_a_damaged_file_is_fetched_again_and_then_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    hub.faults.damaged[SMALL] = 1
    fetched(source(hub), tmp_path / "once")
    assert read(tmp_path / "once") == wanted(hub.files)
    assert hub.begins(SMALL) == [0, 0]
    hub.faults.damaged[SMALL] = 2
    with pytest.raises(Damaged, match=rf"^{SMALL}: its bytes have [0-9a-f]+, not sha256 [0-9a-f]+ as hf://.* 2 times"):
        fetched(source(hub), tmp_path / "twice")
    assert SMALL not in read(tmp_path / "twice")
    assert Folder(tmp_path / "twice").complete() is None
    fetched(source(hub), tmp_path / "twice")
    assert read(tmp_path / "twice") == wanted(hub.files)


def test_small_files_are_compared_by_gits_digest(hub: Hub, tmp_path: Path) -> None:
    hub.faults.damaged["config.json"] = 2
    with pytest.raises(Damaged, match=r"^config\.json: its bytes have .*, not git sha1"):
        fetched(source(hub), tmp_path)


def test_a_file_that_is_damaged_on_the_disk_is_found_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetched(source(hub), tmp_path)
    with (tmp_path / LARGE).open("r+b") as file:
        file.seek(70_000)
        file.write(b"other")
    fetched(source(hub), tmp_path, verify=True)
    assert read(tmp_path) == wanted(hub.files)
    assert hub.begins(LARGE) == [0, 0]
    assert hub.begins(SMALL) == [0]
    (tmp_path / SMALL).write_bytes(b"short")
    fetched(source(hub), tmp_path)
    assert read(tmp_path) == wanted(hub.files)


def test_files_that_somebody_has_put_there_are_compared_and_kept(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / LARGE).write_bytes(hub.files[LARGE])
    fetched(source(hub), tmp_path)
    assert hub.begins(LARGE) == []
    assert read(tmp_path) == wanted(hub.files)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (f"hf://{REPOSITORY}@v2", "answers 404: there is no such revision"),
        ("hf://org/other@v1", "answers 404"),
    ],
)
def test_what_is_not_there_is_not_tried_again(hub: Hub, tmp_path: Path, address: str, why: str) -> None:
    with pytest.raises(BadSource, match=why):
        fetched(source(hub, address), tmp_path)


def test_a_name_that_leaves_the_folder_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["../../evil.json"] = b"{}"
    with pytest.raises(BadSource, match=r"'\.\./\.\./evil\.json' is no name"):
        fetched(source(hub), tmp_path / "model")


@pytest.mark.processes
def test_a_killed_fetch_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    user = new_user(tmp_path) | {"HF_ENDPOINT": hub.url}
    folder = tmp_path / "model"
    hub.faults.pause_s = 0.05
    process = subprocess.Popen([*COMMAND, "fetch", ADDRESS, str(folder)], env=user, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not any(one.stat().st_size > 300_000 for one in folder.glob(f".caracal/parts/{LARGE}.*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    (part,) = folder.glob(f".caracal/parts/{LARGE}.*")
    there = part.stat().st_size
    assert LARGE not in read(folder)
    hub.faults.pause_s = 0
    hub.ranges.clear()
    assert command(user, "fetch", ADDRESS, str(folder)).returncode == 0
    assert hub.begins(LARGE) == [there]
    assert read(folder) == wanted(hub.files)


@pytest.mark.processes
def test_proxies_and_tokens_of_the_environment_hold(tmp_path: Path) -> None:
    user = new_user(tmp_path)
    with Hub(model_files(), token="secret") as hub, Proxy() as proxy:
        user |= {"HF_ENDPOINT": hub.url}
        refused = one_line(command(user, "fetch", ADDRESS, str(tmp_path / "model")))
        assert "HF_TOKEN does not allow it" in refused
        done = command(
            user | {"HTTP_PROXY": proxy.url, "HF_TOKEN": "secret"}, "fetch", ADDRESS, str(tmp_path / "model")
        )
        assert done.returncode == 0, done.stderr
        assert read(tmp_path / "model") == wanted(hub.files)
        assert any(LARGE in url and url.startswith(hub.url) for url in proxy.asked)


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, as root alone may")
def test_a_full_disk_is_noticed_before_and_during_the_fetch(hub: Hub, tmp_path: Path) -> None:
    user = new_user(tmp_path) | {"HF_ENDPOINT": hub.url}
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", str(folder)], check=True)
    try:
        line = one_line(command(user, "fetch", ADDRESS, str(folder)))
        assert "0.002 GB are to come, in 5 files, and the disk has 0.001 GB free" in line
        assert not hub.ranges, "not a byte was fetched"
        subprocess.run(["mount", "-o", "remount,size=3M", str(folder)], check=True)
        filler = folder / "filler"
        hub.faults.on_piece = lambda: filler.exists() or filler.write_bytes(b"x" * 1_600_000)  # type: ignore[assignment]
        line = one_line(command(user, "fetch", ADDRESS, str(folder)))
        assert "the disk is full" in line
        assert "GB are still to come" in line
        hub.faults.on_piece = lambda: None
        filler.unlink()
        assert command(user, "fetch", ADDRESS, str(folder)).returncode == 0
        assert read(folder) == wanted(hub.files)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
