"""Fixtures of the router's tests: a model directory, one fake worker, a router over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, write_assets
from support.gateway_harness import Harness


@pytest.fixture(scope="session")
def assets_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assets(tmp_path_factory.mktemp("model") / "tiny-cat")


@pytest.fixture(scope="module")
def shared_router(assets_path: Path) -> Iterator[Harness]:
    """One router for all tests of a file; tests set its worker's script."""
    with Harness(assets_path, FakeAttention(answers_with([], eos=EOS))) as harness:
        yield harness


@pytest.fixture
def router(shared_router: Harness) -> Harness:
    """The file's router; its worker answers "hello world"."""
    fake = shared_router.fakes[0]
    fake.script = answers_with(shared_router.ids("hello world"), eos=EOS)
    fake.requests.clear()
    return shared_router
