"""Two routers over one cluster: either serves, and when the leader dies another process leads."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from support.cluster_harness import LINKS, ClusterUnderTest, running_cluster, until

from services.cli.generate import stream_chat


@pytest.fixture(scope="module", params=LINKS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("pair"), routers=2, link=request.param)


def _leader(cluster: ClusterUnderTest) -> str:
    """`router/boot`: a router that was started again is another holder."""
    return cluster.do(cluster.membership.leader()) or ""


def _answer(url: str) -> str:
    return "".join(stream_chat(url, "the cat", max_tokens=12, temperature=1, seed=11))


def test_another_leads_when_the_leader_is_killed(pair: ClusterUnderTest) -> None:
    until(lambda: len(pair.records("router")) == 2, "the second router never came")
    until(lambda: all(_ready(url) for url in pair.local.urls), "a router is not ready")
    holder, urls = _leader(pair), dict(zip(("router-0", "router-1"), pair.local.urls, strict=True))
    leader = holder.partition("/")[0]
    other = ({"router-0", "router-1"} - {leader}).pop()
    before, answer = pair.epoch(), _answer(urls[leader])
    assert _answer(urls[other]) == answer

    pair.kill(leader)
    assert _answer(urls[other]) == answer
    until(lambda: _leader(pair) not in ("", holder), "nobody leads")
    pair.scale("expert", 2)
    assert pair.epoch() > before
    assert _answer(urls[other]) == answer
    until(lambda: _ready(urls[leader]), "the killed router was not started again")
    assert _answer(urls[leader]) == answer


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2):
            return True
    except OSError:
        return False
