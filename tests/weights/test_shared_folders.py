"""Folders that several processes share: a claim that a Job fills, and a cache of a node that the first pod fills."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fetched_files import LARGE, fetched, model_files, read, wanted
from support.user_commands import COMMAND, new_user
from support.weight_stores import REPOSITORY, Hub

from services.weights.address import parse_address
from services.weights.errors import BadSource
from services.weights.folder import Folder
from services.weights.hub import HubSource
from services.weights.waiting import reason, wait_until_complete

ADDRESS = f"hf://{REPOSITORY}@v1"
FAR = {"address": ADDRESS, "gb": 312.5, "of_gb": 1125.0, "mb_per_s": 410.2, "left_min": 33.0, "at": 1000.0}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(model_files()) as server:
        yield server


def source(hub: Hub) -> HubSource:
    return HubSource(parse_address(ADDRESS), hub.url)


def test_two_that_fetch_into_one_folder_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    hub.faults.pause_s = 0.01
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(fetched, source(hub), tmp_path) for _ in range(2)]
        assert both[0].result() == both[1].result()
    assert hub.begins(LARGE) == [0]
    assert read(tmp_path) == wanted(hub.files)


def test_who_waits_goes_on_when_the_folder_is_complete(hub: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as threads:
        waits = threads.submit(wait_until_complete, tmp_path, ADDRESS, "all", 0.01)
        fetched(source(hub), tmp_path, weights=False)
        assert not waits.done(), "without weights it is not what was asked for"
        done = fetched(source(hub), tmp_path)
        assert waits.result(10) == done


def test_what_is_waited_for_is_said_in_words() -> None:
    assert reason(FAR, ADDRESS, lambda: 1001.0) == "312.5 of 1125.0 GB, 410.2 MB/s, 33.0 min left"
    assert reason(FAR, ADDRESS, lambda: 1100.0) == "no news for 100 s, at 312.5 of 1125.0 GB: the Job's log says why"
    assert reason({}, ADDRESS, lambda: 0.0) == f"nobody has begun to fetch {ADDRESS}: the Job's log says why"
    assert reason(FAR, "hf://org/model@v2", lambda: 0.0).startswith("nobody has begun to fetch hf://org/model@v2")
    assert reason({"address": ADDRESS}, ADDRESS, lambda: 0.0) == f"{ADDRESS} is being fetched"


def test_a_file_that_is_gone_makes_a_folder_incomplete(hub: Hub, tmp_path: Path) -> None:
    fetched(source(hub), tmp_path)
    (tmp_path / LARGE).unlink()
    assert Folder(tmp_path).complete() is None
    fetched(source(hub), tmp_path)
    assert hub.begins(LARGE) == [0, 0]


@pytest.mark.parametrize("damage", ["[", "{}", '{"address": 1, "scope": "all", "sizes": {"config.json": "x"}}'])
def test_notes_that_cannot_be_read_count_as_none(hub: Hub, tmp_path: Path, damage: str) -> None:
    fetched(source(hub), tmp_path)
    for name in ("complete.json", "verified.jsonl", "progress.json"):
        (tmp_path / ".caracal" / name).write_text(damage)
    fetched(source(hub), tmp_path)
    assert read(tmp_path) == wanted(hub.files)
    assert hub.begins(LARGE) == [0], "compared by its digest, and not fetched again"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/models/flash", "is no address of weights"),
        ("hf://org/model", "without a revision"),
        ("hf://model@v1", "without a revision"),
        ("s3://B_/x", "no name of a bucket"),
        ("ftp://host/x", "is no address of weights"),
        ("https://user:secret@host/x", "without user or query"),
        ("https://host/x?token=1", "without user or query"),
        ("https://host/a/../b", "no folder of a web server"),
    ],
)
def test_addresses_that_name_nothing(address: str, why: str) -> None:
    with pytest.raises(BadSource, match=why):
        parse_address(address)


def test_addresses_are_written_as_they_are_read() -> None:
    for text in (ADDRESS, "s3://bucket/a/b", "gs://bucket", "https://host:8443/a/b", "http://[::1]:80"):
        assert str(parse_address(text)) == text
    assert str(parse_address("s3://bucket/a/b/")) == "s3://bucket/a/b"


@pytest.mark.processes
def test_a_job_and_a_pod_that_waits(hub: Hub, tmp_path: Path) -> None:
    user, folder = new_user(tmp_path) | {"HF_ENDPOINT": hub.url}, str(tmp_path / "model")
    hub.faults.pause_s = 0.05
    waits = subprocess.Popen(
        [*COMMAND, "fetch", "--wait", ADDRESS, folder], env=user, stderr=subprocess.PIPE, text=True
    )
    fetches = subprocess.Popen([*COMMAND, "fetch", ADDRESS, folder], env=user, stderr=subprocess.PIPE, text=True)
    try:
        assert fetches.wait(60) == 0
        assert waits.wait(60) == 0
    finally:
        for process in (fetches, waits):
            process.kill()
            process.wait()
    assert fetches.stderr
    assert waits.stderr
    last = json.loads(fetches.stderr.readlines()[-1])
    assert (last["event"], last["files"], last["of_files"]) == ("the weights are there", 5, 5)
    assert last["gb"] == last["of_gb"]
    assert "waits for the weights" in waits.stderr.readlines()[0]
    assert read(tmp_path / "model") == wanted(hub.files)
