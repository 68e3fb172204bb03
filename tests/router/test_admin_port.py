"""A router's two HTTP ports: what is an admin's business is on one of them alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.membership.redis import Membership
from services.router.console.console import Console

pytestmark = pytest.mark.processes

ADMIN = ("/metrics", "/load", "/cluster")
BOTH = ("/health", "/ready", "/ping", "/version", "/v1/models", "/docs", "/console/", "/console/api/about")
TOKEN = {"authorization": "Bearer a-token-of-24-characters"}


@pytest.fixture(scope="module")
def router(assets_path: Path) -> Iterator[Harness]:
    store = Membership("redis://127.0.0.1:1/0")
    console = partial(Console.of, store, "router-0", TOKEN["authorization"].split()[1])
    fake = FakeAttention(answers_with([70], eos=EOS))
    with Harness(assets_path, fake, console=console, cors_origins=("https://chat.example.org",)) as harness:
        yield harness
        harness.do(store.close())


@pytest.mark.parametrize("path", ADMIN)
def test_admin_routes_are_on_the_admin_port_alone(router: Harness, path: str) -> None:
    assert httpx2.get(router.admin_url + path).status_code == 200
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        answer = httpx2.request(method, router.url + path)
        assert answer.status_code == 404, method
    refused = httpx2.get(router.url + path)
    assert refused.json()["error"]["code"] == "admin_port_only"
    assert "CARACAL_ADMIN_PORT" in refused.json()["error"]["message"]
    assert "worker" not in refused.text


def test_a_whole_url_as_the_target_is_no_way_around(router: Harness) -> None:
    with httpx2.Client(proxy=router.url) as client:
        assert client.get(f"http://elsewhere:{router.servers.admin_port}/metrics").status_code == 404


@pytest.mark.parametrize("path", BOTH)
def test_other_routes_are_on_both(router: Harness, path: str) -> None:
    assert [httpx2.get(url + path).status_code for url in (router.url, router.admin_url)] == [200, 200]


def test_the_model_answers_on_both(router: Harness) -> None:
    for url in (router.url, router.admin_url):
        assert httpx2.post(f"{url}/v1/completions", json={"model": MODEL, "prompt": "a"}).status_code == 200


def test_the_console_of_the_api_port_only_watches(router: Harness) -> None:
    public, admin = (
        httpx2.get(url + "/console/api/about", headers=TOKEN).json()["scale"] for url in (router.url, router.admin_url)
    )
    assert (public["possible"], public["allowed"]) == (False, False)
    assert (admin["possible"], admin["allowed"]) == (True, True)
    ask = partial(httpx2.post, json={"expert": 2}, headers=TOKEN)
    assert ask(router.url + "/console/api/scale").json()["error"]["code"] == "admin_port_only"
    assert ask(router.admin_url + "/console/api/scale").json()["error"]["code"] == "redis_unavailable"


def test_no_other_page_may_read_the_admin_port(router: Harness) -> None:
    origin = {"origin": "https://chat.example.org"}
    allowed = "access-control-allow-origin"
    assert allowed in httpx2.get(router.url + "/v1/models", headers=origin).headers
    assert allowed not in httpx2.get(router.admin_url + "/v1/models", headers=origin).headers
