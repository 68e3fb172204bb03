"""Calls from web pages: answered for the origins that are set, and for none by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import Harness
from support.raw_http import exchange, post

from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

PAGE = "https://chat.example.org"
PREFLIGHT = (
    "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\norigin: {}\r\naccess-control-request-method: POST\r\n"
    "access-control-request-headers: authorization,content-type,x-stainless-os\r\n\r\n"
)


@pytest.fixture(scope="module", params=["one", "any"])
def open_router(request: pytest.FixtureRequest, assets_path: Path) -> Iterator[Harness]:
    origins = (PAGE,) if request.param == "one" else ("*",)
    with Harness(assets_path, FakeAttention(answers_with([70], eos=EOS)), cors_origins=origins) as harness:
        yield harness


def test_a_page_of_an_origin_that_is_set_may_call(open_router: Harness) -> None:
    preflight = exchange(open_router, PREFLIGHT.format(PAGE).encode())
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] in (PAGE, "*")
    assert {"POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    for path, status in (("/v1/completions", 200), ("/nowhere", 404)):
        answer = exchange(open_router, post(path, b'{"prompt": "a"}', extra=f"origin: {PAGE}\r\n"))
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_no_page_may_call_by_default(router: Harness) -> None:
    assert exchange(router, PREFLIGHT.format(PAGE).encode()).status == 204, "the answer to any OPTIONS"
    for data in (PREFLIGHT.format(PAGE).encode(), post("/v1/completions", b"{}", extra=f"origin: {PAGE}\r\n")):
        assert not [name for name in exchange(router, data).headers if name.startswith("access-control")]


def test_another_origin_may_not_call(assets_path: Path) -> None:
    with Harness(assets_path, FakeAttention(answers_with([70], eos=EOS)), cors_origins=(PAGE,)) as harness:
        preflight = exchange(harness, PREFLIGHT.format("https://evil.example.org").encode())
        assert "access-control-allow-origin" not in preflight.headers
        answer = exchange(harness, post("/v1/completions", b'{"prompt": "a"}', extra="origin: null\r\n"))
        assert "access-control-allow-origin" not in answer.headers


def test_the_setting(tmp_path: Path) -> None:
    def origins(text: str) -> tuple[str, ...]:
        return RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_CORS_ORIGINS": text}).origins

    assert origins("") == ()
    assert origins(f"{PAGE}/, http://localhost:3000") == (PAGE, "http://localhost:3000")
    assert origins("*") == ("*",)
    for wrong in ("chat.example.org", "https://a/path", "https://a https://b"):
        with pytest.raises(InvalidSetting, match=r"CARACAL_CORS_ORIGINS is .* is not an origin"):
            origins(wrong)
