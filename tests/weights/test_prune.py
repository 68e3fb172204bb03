"""Old models in a claim: which go, and that none goes which a pod reads or is about to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from kubernetes import client
from support.json_server import JsonHandler, JsonServer
from support.user_commands import command, new_user, one_line

from services.weights.folder import COMPLETE, OWN, Complete, Folder
from services.weights.pods import Pods, PodsUnavailable
from services.weights.prune import HIDDEN, USED, prune

CONTENT = b"weights"


class PodsApi(JsonServer):
    """Lists pods, one in each answer. `then`: those from the second look on, if they are others."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.pods: list[dict[str, Any]] = []
        self.then: list[dict[str, Any]] | None = None
        self.status = self.then_status = 200
        self.looks = 0

    def specs(self) -> str:
        return Pods(client.ApiClient(client.Configuration(host=self.url)), "models").specs()


class _Handler(JsonHandler):
    server: PodsApi

    def do_GET(self) -> None:
        url, api = urlsplit(self.path), self.server
        assert url.path == "/api/v1/namespaces/models/pods"
        at = int(dict(parse_qsl(url.query)).get("continue", "0"))
        api.looks += at == 0
        pods = api.pods if api.looks == 1 or api.then is None else api.then
        status = api.status if api.looks == 1 else api.then_status
        more = {"continue": str(at + 1)} if at + 1 < len(pods) else {}
        self.answer(status, {"kind": "PodList", "metadata": more, "items": pods[at : at + 1]})


@pytest.fixture
def api() -> Iterator[PodsApi]:
    with PodsApi() as server:
        yield server


def pod(*models: str, phase: str = "Running") -> dict[str, Any]:
    env = [{"name": "CARACAL_MODEL", "value": f"/model/{name}"} for name in models]
    return {"spec": {"containers": [{"name": "expert", "env": env}]}, "status": {"phase": phase}}


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """Four complete models, served in the order of their names."""
    root = tmp_path / "model"
    for number, name in enumerate("abcd"):
        made(root / f"model-{name}", served_at=1000.0 + number)
    return root


def made(path: Path, served_at: float) -> Folder:
    """A folder as `caracal fetch` leaves it."""
    folder = Folder(path)
    folder.make()
    with folder.locked(lambda: None):
        (path / "config.json").write_bytes(CONTENT)
        folder.mark_complete(Complete(f"hf://org/name@{path.name}", "all", {"config.json": len(CONTENT)}))
    for name in (COMPLETE, USED):
        (folder.own / name).touch()
        os.utime(folder.own / name, (served_at, served_at))
    return folder


def left(claim: Path) -> str:
    """The last letters of the models that are there and complete."""
    return "".join(path.name[-1] for path in sorted(claim.iterdir()) if Folder(path).complete())


def test_this_one_and_those_served_last_stay(claim: Path, api: PodsApi) -> None:
    assert prune(claim / "model-d", 2, api.specs) == ["model-b", "model-a"]
    assert sorted(path.name for path in claim.iterdir()) == ["model-c", "model-d"]
    made(claim / "model-e", served_at=2000.0)
    prune(claim / "model-c", 2, api.specs)  # as after a rollback
    assert left(claim) == "cd", "the other one was served last"
    prune(claim / "model-c", 1, api.specs)
    assert left(claim) == "c", "keep=1 is this one alone"


def test_what_a_pod_names_stays(claim: Path, api: PodsApi) -> None:
    api.pods = [pod("model-d"), pod("model-a"), pod("model-b", phase="Succeeded"), pod(phase="Pending")]
    prune(claim / "model-d", 2, api.specs)
    assert left(claim) == "acd", "however old it is"


def test_a_pod_that_begins_meanwhile_finds_its_model(claim: Path, api: PodsApi) -> None:
    api.then = [pod("model-b", phase="Pending")]
    assert prune(claim / "model-d", 2, api.specs) == ["model-a"]
    assert left(claim) == "bcd"


def test_one_into_which_somebody_fetches_stays(claim: Path, api: PodsApi) -> None:
    with Folder(claim / "model-a").locked(lambda: None):
        prune(claim / "model-d", 2, api.specs)
    assert left(claim) == "acd"


def test_folders_of_others_stay(claim: Path, api: PodsApi) -> None:
    (claim / "lost+found").mkdir()
    (claim / "notes.txt").write_text("of somebody")
    (claim / "link").symlink_to(claim / "model-c")
    prune(claim / "model-d", 1, api.specs)
    assert sorted(path.name for path in claim.iterdir()) == ["link", "lost+found", "model-d", "notes.txt"]


@pytest.mark.parametrize(("first", "second"), [(403, 200), (200, 500)])
def test_while_pods_cannot_be_listed_all_stay(claim: Path, api: PodsApi, first: int, second: int) -> None:
    api.status, api.then_status = first, second
    with pytest.raises(PodsUnavailable, match=f"pods cannot be listed: {max(first, second)}"):
        prune(claim / "model-d", 2, api.specs)
    assert left(claim) == "abcd"


def test_what_a_killed_one_has_hidden_is_found_again(claim: Path, api: PodsApi) -> None:
    for name in ("model-a", "model-b"):
        own = claim / name / OWN
        (own / COMPLETE).rename(own / HIDDEN)
    (claim / "model-b" / "config.json").unlink()
    api.pods = [pod("model-a", "model-b")]
    prune(claim / "model-d", 2, api.specs)
    assert left(claim) == "acd", "the one that was removed in part is not complete"


def test_a_model_that_is_still_to_be_fetched_counts(claim: Path, api: PodsApi) -> None:
    prune(claim / "model-new", 2, api.specs)
    assert left(claim) == "d"
    assert (claim / "model-new").is_dir()


@pytest.mark.processes
def test_outside_a_cluster_one_line_says_so(tmp_path: Path) -> None:
    line = one_line(command(new_user(tmp_path), "prune", str(tmp_path / "model" / "a")))
    assert line.startswith("caracal: the service account cannot be used:")
