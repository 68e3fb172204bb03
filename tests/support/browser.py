"""A headless Chromium for tests of the console: the system's, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = f"no browser: none of {', '.join(NAMES)} is installed; `make browser` installs one on Debian"
WAIT_MS = 15_000
# Runs before the page's own scripts, and is not subject to its policy.
WATCH = """
window.violations = [];
window.ran = [];
document.addEventListener("securitypolicyviolation", (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
for (const name of ["alert", "confirm", "prompt"]) window[name] = (text) => ran.push(`${name} ${text}`);
"""


def executable() -> str | None:
    """Path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """It is closed at the end: Playwright's event loop stays on the thread until then."""
    with sync_playwright() as playwright:
        # Containers have neither the user namespaces of Chromium's sandbox nor much of /dev/shm.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(browser: Browser, origin: str = "", **options: Any) -> Iterator[Page]:
    """A new page. At its end: no script has failed, nothing has violated the policy or called a dialogue, no file was
    missing, and nothing was asked of another server."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.add_init_script(WATCH)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    page.on("request", lambda request: problems.append(request.url) if foreign(request.url, origin) else None)
    page.on("response", lambda answer: problems.append(f"{answer.status} {answer.url}") if is_missing(answer) else None)
    try:
        yield page
        assert page.evaluate("[...violations, ...ran]") == []
        assert problems == []
    finally:
        context.close()


def is_problem(message: ConsoleMessage) -> bool:
    """Chromium also writes every rejected request there, which tests want to see on the page."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def is_missing(answer: Response) -> bool:
    return answer.request.method == "GET" and answer.status >= 400


def foreign(url: str, origin: str) -> bool:
    return bool(origin) and urlsplit(url).scheme in ("http", "https", "ws") and not url.startswith(origin)
