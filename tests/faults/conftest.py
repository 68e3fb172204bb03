"""One cluster under faults for all tests here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults.asking import Question
from faults.cluster import FaultyCluster
from faults.questions import questions
from support.tiny_checkpoint import PLAIN, make_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("faults") / "model", PLAIN, num_layers=3, seed=3, drafts=True)


@pytest.fixture(scope="module")
def cluster(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCluster]:
    with FaultyCluster(model, tmp_path_factory.mktemp("logs")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def asked(model: Path, cluster: FaultyCluster) -> Sequence[Question]:
    return questions(model, cluster)
