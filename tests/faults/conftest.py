"""Clusters under faults for the tests here: one of each kind that they need, and one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from faults.asking import Question
from faults.questions import questions
from support.tiny_checkpoint import PLAIN, make_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("faults") / "model", PLAIN, num_layers=3, seed=3, drafts=True)


@pytest.fixture(scope="session")
def asked(model: Path) -> Sequence[Question]:
    return questions(model)
