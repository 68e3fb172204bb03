"""Pods of lost nodes: which they are, and how the leader removes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from support.json_server import JsonHandler, JsonServer

from services.router.placement.lost_pods import LeavingPod, LostPods
from services.router.placement.pod_removal import PodRemoval

SELECTOR = "app.kubernetes.io/instance=caracal"


def pod(name: str, *, leaving: bool = True, reason: str = "DeletionByTaintManager") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "False"}]
    conditions += [{"type": "DisruptionTarget", "status": "True", "reason": reason}] if reason else []
    gone = {"deletionTimestamp": "2026-11-30T12:00:00Z"} if leaving else {}
    return {"metadata": {"name": name, "uid": f"uid-{name}"} | gone, "status": {"conditions": conditions}}


def test_what_a_pod_says() -> None:
    assert LeavingPod.of(pod("a")) == LeavingPod("a", "uid-a", by_node=True)
    assert LeavingPod.of(pod("a", reason="EvictionByEvictionAPI")) == LeavingPod("a", "uid-a", by_node=False)
    assert LeavingPod.of(pod("a", leaving=False)) is None
    assert LeavingPod.of({"metadata": {"name": "a", "uid": "u", "deletionTimestamp": "x"}}) == LeavingPod(
        "a", "u", False
    )


def test_a_pod_is_lost_once_its_worker_has_been_silent_for_a_while() -> None:
    lost = LostPods(30)
    a, b, deleted = LeavingPod("a", "1", True), LeavingPod("b", "2", True), LeavingPod("c", "3", False)
    assert lost.look([a, b, deleted], {"a"}, 0) == []
    assert lost.look([a, b, deleted], set(), 29) == []
    assert lost.look([a, b, deleted], set(), 30) == [b], "c was deleted by a person, a has been silent for a second"
    assert lost.look([a], {"a"}, 40) == []
    assert lost.look([a], set(), 60) == [], "it answered in between"
    assert lost.look([LeavingPod("a", "new", True)], set(), 95) == [], "another pod of the same name"
    assert lost.look([a], set(), 100) == []
    lost.forget()
    assert lost.look([a], set(), 200) == []


class Api(JsonServer):
    def __init__(self) -> None:
        super().__init__(Handler)
        self.pods: list[dict[str, Any]] = []
        self.status = 200
        self.deleted: list[tuple[str, dict[str, Any]]] = []
        self.selectors: set[str] = set()

    def connect(self) -> tuple[Any, str]:
        from kubernetes import client

        settings = client.Configuration()
        settings.host, settings.retries = self.url, 0
        return client.CoreV1Api(client.ApiClient(settings)), "models"


class Handler(JsonHandler):
    server: Api

    def do_GET(self) -> None:
        self.server.selectors.add(dict(parse_qsl(urlsplit(self.path).query)).get("labelSelector", ""))
        if self.server.status != 200:
            return self.answer(self.server.status, {})
        return self.answer(200, {"items": self.server.pods})

    def do_DELETE(self) -> None:
        name = urlsplit(self.path).path.rpartition("/")[2]
        self.server.deleted.append((name, self.body()))
        self.server.pods = [one for one in self.server.pods if one["metadata"]["name"] != name]
        self.answer(200, {})


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        yield server


@asynccontextmanager
async def removal(api: Api, leading: list[bool], living: set[str]) -> AsyncIterator[None]:
    made = PodRemoval(SELECTOR, lambda: leading[0], lambda: living, api.connect, LostPods(0.2), 0.02)
    running = asyncio.create_task(made.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of a server in another thread
            await asyncio.sleep(0.01)


def test_the_leader_removes_them_and_no_others(api: Api) -> None:
    async def scenario() -> None:
        leading = [False]
        api.pods = [pod("caracal-expert-0"), pod("caracal-expert-1"), pod("caracal-expert-2", reason="")]
        api.pods.append(pod("caracal-expert-3", leaving=False))
        async with removal(api, leading, {"caracal-expert-1"}):
            await asyncio.sleep(0.5)
            assert not api.selectors, "one that does not lead asks for nothing"
            leading[0] = True
            await until(lambda: api.deleted)
            await asyncio.sleep(0.5)
            body = {"gracePeriodSeconds": 0, "preconditions": {"uid": "uid-caracal-expert-0"}}
            assert api.deleted == [("caracal-expert-0", body)]
            assert api.selectors == {SELECTOR}

    asyncio.run(scenario())


def test_without_the_right_or_the_server_it_goes_on(api: Api) -> None:
    async def scenario() -> None:
        api.status, api.pods = 403, [pod("caracal-expert-0")]
        async with removal(api, [True], set()):
            await until(lambda: api.selectors)
            await asyncio.sleep(0.4)
            assert not api.deleted
            api.status = 200
            await until(lambda: api.deleted)

    asyncio.run(scenario())
