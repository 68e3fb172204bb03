"""Two routers over one cluster: both serve, and when the leader dies the other leads."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from support.cluster_harness import LINKS, ClusterUnderTest, running_cluster, until

from services.cli.generate import stream_chat

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module", params=LINKS)
def two_routers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("two_routers"), routers=2, link=request.param)


def _leader(cluster: ClusterUnderTest) -> str:
    """Returns `router/boot`; a restarted router is another holder."""
    return cluster.do(cluster.membership.leader()) or ""


def _answer(url: str) -> str:
    return "".join(stream_chat(url, "the cat", max_tokens=12, temperature=1, seed=11))


def test_another_leads_when_the_leader_is_killed(two_routers: ClusterUnderTest) -> None:
    until(lambda: len(two_routers.records("router")) == 2, "the second router never came")
    until(lambda: all(_ready(url) for url in two_routers.local.urls), "a router is not ready")
    holder, urls = _leader(two_routers), dict(zip(("router-0", "router-1"), two_routers.local.urls, strict=True))
    leader = holder.partition("/")[0]
    other = ({"router-0", "router-1"} - {leader}).pop()
    before, answer = two_routers.epoch(), _answer(urls[leader])
    assert _answer(urls[other]) == answer

    two_routers.kill(leader)
    assert _answer(urls[other]) == answer
    until(lambda: _leader(two_routers) not in ("", holder), "no router leads")
    two_routers.scale("expert", 2)
    assert two_routers.epoch() > before
    assert _answer(urls[other]) == answer
    until(lambda: _ready(urls[leader]), "the killed router was not started again")
    assert _answer(urls[leader]) == answer


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2):
            return True
    except OSError:
        return False
