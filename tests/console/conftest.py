"""A browser, and a router with a console over fake attention workers and a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from playwright.sync_api import Browser, Page
from support.browser import NO_BROWSER, chromium, executable, watched_page
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, write_assets
from support.gateway_harness import Harness
from support.worker_processes import Store, redis_store

from services.membership.redis import Membership
from services.router.console.console import Console

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if executable() is None:
        pytest.skip(NO_BROWSER)
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="module")
def console_router(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Its attention worker answers nothing until a test says what."""
    assets = write_assets(tmp_path_factory.mktemp("model") / "tiny-cat", context=4096)
    console = partial(Console.of, Membership(store.url), "router-0", TOKEN, "caracal scale ROLE=COUNT")
    with Harness(assets, FakeAttention(answers_with([], eos=EOS)), console=console) as harness:
        yield harness


@pytest.fixture
def page(browser: Browser, console_router: Harness) -> Iterator[Page]:
    """The console without a token."""
    with watched_page(browser, console_router.url) as opened:
        opened.goto(f"{console_router.url}/console/")
        yield opened
