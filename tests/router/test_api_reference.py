"""/docs of a running router: the API reference, with assets of its own."""

from __future__ import annotations

import re

import httpx2
from support.gateway_harness import Harness


def test_the_page_and_its_assets_come_from_the_router_alone(router: Harness) -> None:
    page = httpx2.get(f"{router.url}/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    links = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(links) >= 2
    for link in links:
        assert link.startswith("/docs/assets/"), "no content network"
        assert httpx2.get(router.url + link).status_code == 200
