"""The console of a real cluster: workers come, die and go while the page watches; scaling from it, or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import watched_page
from support.cluster_harness import ClusterUnderTest, running_cluster
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import write_assets
from support.gateway_harness import Harness
from support.prefix_proxy import prefix_proxy
from support.worker_processes import Store

from services.membership.redis import Membership
from services.router.console.console import Console

pytestmark = pytest.mark.processes

SLOW_MS = 40_000  # for processes that start on shared cores


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("console"))


def serving(page: Page, worker: str) -> None:
    row = page.locator("[data-role=expert] tbody tr", has=page.locator(f"th:text-is('{worker}')"))
    expect(row).to_contain_text("serving", timeout=SLOW_MS)


def test_workers_come_die_and_go_on_the_page(browser: Browser, cluster: ClusterUnderTest) -> None:
    url = cluster.local.admin_url
    with watched_page(browser, url) as page:
        page.goto(f"{url}/console/#token={cluster.local.console_token}")
        serving(page, "expert-0")
        assert cluster.local.console_token not in page.url
        events = page.locator("#events ol")
        field = page.locator("#scale").get_by_label("Expert workers")
        expect(field).to_have_value("1")
        field.fill("2")
        page.locator("#scale").get_by_role("button", name="Apply").click()
        serving(page, "expert-1")
        expect(events).to_contain_text("expert=2 asked for, before it 1")
        expect(events).to_contain_text("expert-1 joined")
        expect(page.locator("#scale")).to_contain_text("Reached.", timeout=SLOW_MS)
        expect(page.locator("#map-summary")).to_contain_text("on 2 workers", timeout=SLOW_MS)
        cluster.kill("expert-1")
        expect(events).to_contain_text(re.compile("expert-1 (started again|lost)"), timeout=SLOW_MS)
        serving(page, "expert-1")
        field.fill("1")
        field.press("Enter")
        expect(events).to_contain_text("expert-1 left", timeout=SLOW_MS)
        expect(page.locator("#map-summary")).to_contain_text("on 1 worker", timeout=SLOW_MS)


def test_layers_show_what_a_real_step_did(browser: Browser, cluster: ClusterUnderTest) -> None:
    url = cluster.local.admin_url
    with watched_page(browser, url) as page:
        page.goto(f"{url}/console/#chat")
        page.fill("#max-tokens", "40")
        page.fill("#prompt", "the cat")
        page.press("#prompt", "Enter")
        expect(page.locator(".answer[aria-busy=false] footer")).to_contain_text("tokens/s", timeout=SLOW_MS)
        page.click("#to-cluster")
        expect(page.locator("#layers tbody tr")).to_have_count(3)
        expect(page.locator("#layers tbody tr").first).to_have_text(re.compile(r"0\d+%[\d.]+ [µm]s[\d.]+ [µm]s"))


def test_without_a_token_the_page_only_watches(browser: Browser, cluster: ClusterUnderTest) -> None:
    url = cluster.local.admin_url
    with watched_page(browser, url) as page:
        page.goto(f"{url}/console/")
        scale = page.locator("#scale")
        expect(scale).to_contain_text("Read only")
        expect(scale).to_contain_text("caracal scale expert=N")
        expect(scale.get_by_role("button", name="Apply")).to_have_count(0)
        scale.get_by_label("Token").fill("not the token at all")
        scale.get_by_role("button", name="Unlock").click()
        expect(scale).to_contain_text("The token is wrong.")
        scale.get_by_label("Token").fill(cluster.local.console_token)
        scale.get_by_label("Token").press("Enter")
        expect(scale.get_by_role("button", name="Apply")).to_be_visible()
        page.reload()
        expect(scale.get_by_role("button", name="Apply")).to_be_visible()


def test_the_page_works_under_a_path_prefix(browser: Browser, cluster: ClusterUnderTest) -> None:
    with prefix_proxy(cluster.local.urls[0], "/serving/caracal") as url, watched_page(browser, url) as page:
        page.goto(f"{url}/console#chat")
        page.fill("#max-tokens", "3")
        page.fill("#prompt", "hello")
        page.press("#prompt", "Enter")
        expect(page.locator(".answer[aria-busy=false] footer")).to_contain_text("ended by", timeout=SLOW_MS)
        page.click("#to-cluster")
        serving(page, "expert-0")


def test_on_kubernetes_the_command_is_shown(browser: Browser, store: Store, tmp_path: Path) -> None:
    command = "kubectl -n prod scale statefulset/caracal-ROLE --replicas=COUNT"
    console = partial(Console.of, Membership(store.url), "router-0", "", command)
    fake = FakeAttention(answers_with([]))
    with Harness(write_assets(tmp_path / "m"), fake, console=console) as harness, watched_page(browser) as page:
        page.goto(f"{harness.url}/console/")
        expect(page.locator("#scale")).to_contain_text("kubectl -n prod scale statefulset/caracal-expert --replicas=N")
        expect(page.locator("#scale input")).to_have_count(1)
        expect(page.locator("#scale input")).not_to_be_visible()
