"""One cluster per link, of one attention and one expert worker, for all tests that restore it; and a fake Kubernetes
API for `--context lab`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_harness import CALLERS, LINKS, TOKENS, ClusterUnderTest, Stream, running_cluster
from support.kube_api import FakeApi
from support.kube_command import write_kubeconfig
from support.tiny_checkpoint import make_checkpoint
from support.user_commands import new_user


@pytest.fixture(scope="session", params=LINKS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("cluster"), link=request.param)


@pytest.fixture
def cluster(shared: ClusterUnderTest) -> Iterator[ClusterUnderTest]:
    yield shared
    shared.scale("attention", 1)
    shared.scale("expert", 1)


@pytest.fixture(scope="session")
def undisturbed() -> list[list[Stream]]:
    """The callers' answers of each cluster, without scaling or failures."""
    return []


@pytest.fixture(scope="session")
def unscaled(shared: ClusterUnderTest, undisturbed: list[list[Stream]]) -> list[Stream]:
    """The callers' answers without scaling or failures; asserts that they are the same over every link."""
    answers = [caller[0] for caller in shared.streams().finish()]
    assert [len(stream.ids) for stream in answers] == [TOKENS] * CALLERS
    assert len({tuple(stream.checksums) for stream in answers}) == CALLERS
    undisturbed.append(answers)
    for stream, first in zip(answers, undisturbed[0], strict=True):
        assert (stream.ids, stream.checksums) == (first.ids, first.checksums)
    return answers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint for `caracal up`."""
    return make_checkpoint(tmp_path_factory.mktemp("up") / "tiny-random")


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    return new_user(tmp_path)


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def api(kubeconfig: Path) -> Iterator[FakeApi]:
    with FakeApi() as server:
        write_kubeconfig(kubeconfig, server.url)
        yield server
