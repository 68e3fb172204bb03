"""One cluster for all tests that leave it as they found it: one attention and one expert worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_harness import CALLERS, TOKENS, ClusterUnderTest, Stream, running_cluster


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster(shared: ClusterUnderTest) -> Iterator[ClusterUnderTest]:
    yield shared
    shared.scale("attention", 1)
    shared.scale("expert", 1)


@pytest.fixture(scope="session")
def unscaled(shared: ClusterUnderTest) -> list[Stream]:
    """What the callers get while nothing happens."""
    answers = [caller[0] for caller in shared.streams().finish()]
    assert [len(stream.ids) for stream in answers] == [TOKENS] * CALLERS
    assert len({tuple(stream.checksums) for stream in answers}) == CALLERS
    return answers
