"""The routes under /console without a browser: files, policy, who may scale."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.announced_cluster import AnnouncedCluster, attention, even_table, expert, router
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import write_assets
from support.gateway_harness import Harness
from support.worker_processes import Store

from services.router.console.files import FOLDER, POLICY

pytestmark = pytest.mark.processes

TOKEN = "a-token-of-the-tests"  # as in conftest.py
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def url(console_router: Harness) -> str:
    return f"{console_router.admin_url}/console"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client() as one:
        yield one


@pytest.fixture
def announced(store: Store) -> Iterator[AnnouncedCluster]:
    records = [router(), attention(0, 2), expert(0, 4), expert(1, 4)]
    with AnnouncedCluster(store.url, records, even_table(2, 4, 2)) as cluster:
        yield cluster


def test_the_page_and_its_files(url: str, client: httpx2.Client) -> None:
    redirect = client.get(url, follow_redirects=False)
    assert (redirect.status_code, redirect.headers["location"]) == (307, "console/")
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in ("", *(path.name for path in FOLDER.iterdir())):
        answer = client.get(f"{url}/{name}")
        kind = types[(name or "index.html").rpartition(".")[2]]
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(f"{url}/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = client.head(f"{url}/{name}")
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])
    for name in ("nothing.js", "../console.py", "%2e%2e/console.py", "static/main.js", "api/nothing"):
        assert client.get(f"{url}/{name}").status_code == 404
    assert client.post(f"{url}/main.js").status_code == 405
    page = client.get(f"{url}/").text
    assert "style=" not in page
    assert " on" not in "".join(part.partition(">")[0] for part in page.split("<"))


def test_a_console_that_is_switched_off_is_not_there(tmp_path: Path) -> None:
    with Harness(write_assets(tmp_path / "m"), FakeAttention(answers_with([]))) as harness:
        for path in ("/console", "/console/", "/console/api/state"):
            answer = httpx2.get(harness.url + path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_state_comes_with_a_tag_and_new_events(url: str, announced: AnnouncedCluster) -> None:
    first = httpx2.get(f"{url}/api/state")
    state = first.json()
    assert [row[:3] for row in state["workers"]] == [
        ["attention-0", "attention", "serving"],
        ["expert-0", "expert", "serving"],
        ["expert-1", "expert", "serving"],
        ["router-0", "router", "serving"],
    ]
    assert len(state["workers"][0]) == len(state["fields"]) + len(state["counts"]["attention"])
    assert state["layers"]["zero_share"] == [0.2, 0.325]
    since = f"?source={state['source']}&after={state['last_event']}"
    second = httpx2.get(f"{url}/api/state{since}")
    assert second.json()["events"] == []
    third = httpx2.get(f"{url}/api/state{since}", headers={"if-none-match": second.headers["etag"]})
    assert third.status_code in (200, 304)  # 200 where the leader has changed meanwhile
    assert httpx2.get(f"{url}/api/state?source=other&after=99").json()["events"]
    placement = httpx2.get(f"{url}/api/placement")
    assert placement.json()["workers"] == ["expert-0", "expert-1"]
    tag = {"if-none-match": placement.headers["etag"]}
    assert httpx2.get(f"{url}/api/placement", headers=tag).status_code == 304


def scale(url: str, body: Any, **headers: str) -> tuple[int, str]:
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    answer = httpx2.post(f"{url}/api/scale", content=json.dumps(body), headers=given)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def test_counts_change_only_with_the_token_and_from_the_page(url: str, store: Store) -> None:
    store.client.delete("caracal:desired")
    assert scale(url, {"expert": 2}, **BEARER) == (409, "not_followed")
    store.client.hset("caracal:desired", mapping={"attention": 1, "expert": 1})
    host = url.split("/")[2]
    for headers in (
        {},
        {"authorization": "Bearer wrong-token-wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"token={TOKEN}"},
        BEARER | {"origin": "http://elsewhere"},
        BEARER | {"origin": "null"},
        BEARER | {"sec_fetch_site": "cross-site", "origin": f"http://{host}"},
        BEARER | {"sec_fetch_site": "same-site"},
    ):
        assert scale(url, {"expert": 3}, **headers) == (403, "not_allowed"), headers
    assert store.client.hgetall("caracal:desired") == {b"attention": b"1", b"expert": b"1"}
    assert scale(url, {"expert": 3}, **BEARER, origin=f"http://{host}") == (200, "")
    assert scale(url, {"attention": 2}, **BEARER, sec_fetch_site="same-origin") == (200, "")
    assert store.client.hgetall("caracal:desired") == {b"attention": b"2", b"expert": b"3"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_required_parameter"),
        ({"expert": 0}, "value_out_of_range"),
        ({"expert": 65}, "value_out_of_range"),
        ({"expert": "3"}, "invalid_type"),
        ({"expert": 3, "router": 2}, "unknown_parameter"),
        ([], "invalid_json"),
    ],
)
def test_counts_are_checked(url: str, store: Store, body: Any, code: str) -> None:
    store.client.hset("caracal:desired", mapping={"attention": 1, "expert": 1})
    assert scale(url, body, **BEARER) == (400, code)
    assert store.client.hget("caracal:desired", "expert") == b"1"


def test_what_a_page_may_do(url: str) -> None:
    shown = httpx2.get(f"{url}/api/about").json()
    assert (shown["scale"]["possible"], shown["scale"]["allowed"]) == (True, False)
    assert httpx2.get(f"{url}/api/about", headers=BEARER).json()["scale"]["allowed"]
    assert TOKEN not in httpx2.get(f"{url}/api/about", headers=BEARER).text
