"""The cluster's view in a real browser, over a cluster of 128 workers that is only announced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from support.announced_cluster import AnnouncedCluster, attention, even_table, expert, router
from support.browser import watched_page
from support.gateway_harness import Harness
from support.worker_processes import Store

from services.membership.record import WorkerRecord

pytestmark = pytest.mark.processes

ATTENTION, EXPERT, LAYERS, EXPERTS = 32, 96, 28, 512
# Every element that Tab should reach, by what a person would call it.
FOCUSABLE = """
[...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
  .filter((e) => !e.disabled && e.checkVisibility()).length
"""


def advance(record: WorkerRecord, rounds: int) -> WorkerRecord:
    if record.role != "attention":
        return record
    return replace(record, stats=record.stats | {"generation_tokens": 1e6 + 50 * rounds})


@pytest.fixture(scope="module")
def announced(store: Store) -> Iterator[AnnouncedCluster]:
    records = [
        router(),
        *(attention(number, LAYERS) for number in range(ATTENTION)),
        *(expert(number, LAYERS * EXPERTS // EXPERT) for number in range(EXPERT)),
    ]
    with AnnouncedCluster(store.url, records, even_table(LAYERS, EXPERTS, EXPERT), advance) as cluster:
        yield cluster


@pytest.fixture
def view(announced: AnnouncedCluster, page: Page) -> Page:
    expect(rows(page, "expert").first).to_be_visible()
    return page


def rows(page: Page, role: str) -> Any:
    return page.locator(f"[data-role={role}] tbody tr")


def test_128_workers_are_readable(view: Page) -> None:
    expect(view.locator("[data-role=attention] .role-title")).to_contain_text(f"{ATTENTION} serving")
    expect(view.locator("[data-role=expert] .role-title")).to_contain_text(f"{EXPERT} serving")
    assert rows(view, "expert").count() == 16
    view.click(f"text=Show all {EXPERT}")
    expect(rows(view, "expert")).to_have_count(EXPERT)
    expect(view.locator("#map-summary")).to_contain_text(f"28 layers of 512 experts on {EXPERT} workers, epoch 1001")
    expect(view.locator("#layers tbody tr")).to_have_count(LAYERS)
    assert view.locator("#layers tbody tr").nth(14).inner_text().split() == ["14", "33%", "164", "µs", "856", "µs"]
    expect(view.locator("#figures")).to_contain_text("32%")
    expect(view.locator("#figures > div").nth(4)).to_have_text(re.compile(r"Tokens/s[1-9]"))
    for width in (1280, 390):
        view.set_viewport_size({"width": width, "height": 800})
        assert view.evaluate("document.documentElement.scrollWidth") <= width


def test_workers_are_filtered_and_sorted(view: Page) -> None:
    view.fill("#filter-text", "expert-9")
    expect(rows(view, "expert")).to_have_count(7)
    expect(view.locator("#filter-count")).to_have_text("7 of 129 workers")
    view.fill("#filter-text", "node-3")
    assert rows(view, "expert").first.inner_text().startswith("expert-12")
    view.fill("#filter-text", "")
    view.locator("[data-role=attention] thead button", has_text="KV").click()
    expect(view.locator("[data-role=attention] th[aria-sort=descending]")).to_have_text("KV")
    assert rows(view, "attention").first.locator("th").inner_text() == "attention-29"
    view.locator("[data-role=attention] thead button", has_text="KV").click()
    assert rows(view, "attention").first.locator("th").inner_text() == "attention-0"
    view.select_option("#filter-state", "draining")
    expect(rows(view, "expert")).to_have_count(0)


def test_the_map_says_where_experts_are(view: Page, announced: AnnouncedCluster) -> None:
    view.focus("#map")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"):
        view.keyboard.press(key)
    detail = view.locator("#map-detail")
    expect(detail).to_contain_text("layer 1 · expert-1 (serving) · ")
    shown = re.findall(r"(\d+)(?:–(\d+))?", detail.inner_text().partition("experts: ")[2])
    ids = {i for low, high in shown for i in range(int(low), int(high or low) + 1)}
    workers = memoryview(announced.table.layers[1].workers).cast("H")
    assert ids == {i for i, worker in enumerate(workers) if worker == 1}
    view.fill("#find-layer", "3")
    view.fill("#find-expert", "17")
    view.press("#find-expert", "Enter")
    holder = memoryview(announced.table.layers[3].workers).cast("H")[17]
    expect(view.locator("#found")).to_have_text(f"At expert-{holder}.")
    expect(detail).to_contain_text(f"layer 3 · expert-{holder} ")
    box = view.locator("#map").bounding_box()
    assert box
    view.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(detail).to_contain_text(re.compile(r"layer 1[34] · expert-\d+"))


def test_joins_drains_and_deaths_are_seen(view: Page, announced: AnnouncedCluster) -> None:
    announced.records.append(expert(EXPERT, 0, epoch=0))
    number = next(i for i, record in enumerate(announced.records) if record.worker_id == "expert-3")
    announced.records[number] = replace(announced.records[number], draining=True)
    expect(rows(view, "expert").nth(0).locator("th")).to_have_text("expert-3")
    expect(rows(view, "expert").nth(1)).to_contain_text("joining")
    events = view.locator("#events ol")
    expect(events).to_contain_text(f"expert-{EXPERT} joined")
    expect(events).to_contain_text("expert-3 draining")
    announced.records[number] = replace(announced.records[number], draining=False)
    announced.records.pop()
    expect(events).to_contain_text(f"expert-{EXPERT} lost, its lease has expired", timeout=20_000)
    announced.table = even_table(LAYERS, EXPERTS, EXPERT - 1, epoch=1002)
    expect(events).to_contain_text("epoch 1002: 14336 experts on 95 workers,")
    expect(view.locator("#map-summary")).to_contain_text("on 95 workers, epoch 1002")


def test_a_hidden_page_asks_nothing(view: Page) -> None:
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    with view.expect_request("**/api/state*"):
        pass
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    change = "document.dispatchEvent(new Event('visibilitychange'))"
    view.evaluate(hide % "true" + change)
    view.wait_for_timeout(300)
    asked.clear()
    view.wait_for_timeout(1500)
    assert asked == []
    with view.expect_request("**/api/state*"):
        view.evaluate(hide % "false" + change)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_views_are_accessible(
    browser: Browser, console_router: Harness, announced: AnnouncedCluster, scheme: Any
) -> None:
    with watched_page(browser, console_router.url, color_scheme=scheme) as page:
        page.goto(f"{console_router.url}/console/")
        expect(rows(page, "expert").first).to_be_visible()
        for name in ("cluster", "chat"):
            page.click(f"#to-{name}")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


def test_the_theme_follows_the_system_and_the_switch(
    browser: Browser, console_router: Harness, announced: AnnouncedCluster
) -> None:
    def lightness(page: Page) -> int:
        text = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", text)))

    with watched_page(browser, console_router.url, color_scheme="dark") as page:
        page.goto(f"{console_router.url}/console/")
        assert lightness(page) < 150
        page.click("#theme")
        expect(page.locator("#theme")).to_have_text("Theme: light")
        assert lightness(page) > 600
        page.reload()
        assert lightness(page) > 600
        page.emulate_media(color_scheme="light")
        page.click("#theme")
        expect(page.locator("#theme")).to_have_text("Theme: dark")
        assert lightness(page) < 150


def test_everything_is_reached_by_the_keyboard(view: Page, console_router: Harness) -> None:
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached, shown = 1, True
    for _ in range(100):
        view.keyboard.press("Tab")
        outline = view.evaluate("""() => {
          const e = document.activeElement, style = getComputedStyle(e);
          return e === document.body ? "" : style.outlineStyle + parseFloat(style.outlineWidth);
        }""")
        if not outline:
            break
        reached, shown = reached + 1, shown and outline not in ("none0", "auto0")
    assert shown, "a focused element without an outline"
    assert reached == view.evaluate(FOCUSABLE)


def test_a_chat_by_the_keyboard_alone(view: Page, console_router: Harness) -> None:
    view.keyboard.press("Tab")
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "main"
    view.keyboard.press("Shift+Tab")
    while view.evaluate("document.activeElement.id") != "to-chat":
        view.keyboard.press("Shift+Tab")
    view.keyboard.press("Enter")
    while view.evaluate("document.activeElement.id") != "prompt":
        view.keyboard.press("Tab")
    view.keyboard.type("hello")
    view.keyboard.press("Enter")
    expect(view.locator(".answer[aria-busy=false]")).to_have_count(1)
    assert view.evaluate("document.activeElement.id") == "prompt"
