"""What /metrics says of experts' load: the hottest and coldest by rank, however many there are.

Legend: L layers, F FFN experts of a layer.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import ScrubCounters
from services.expert_worker.batcher import Batcher
from services.expert_worker.experts import Experts
from services.expert_worker.metrics import RANKS, ExpertMetrics
from services.expert_worker.placement_state import PlacementState
from services.expert_worker.service import ExpertService

LOAD = "caracal_expert_load"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("plain")))


@pytest.fixture
def experts(checkpoint: Checkpoint) -> Experts:
    return Experts(checkpoint, torch.float32)


@pytest.fixture
def batcher(experts: Experts) -> Batcher:
    return Batcher(experts.compute, experts.num_layers, experts.num_ffn)


@pytest.fixture
def metrics(experts: Experts, batcher: Batcher) -> ExpertMetrics:
    state = PlacementState(experts, "expert-0", "boot", "class")
    return ExpertMetrics(batcher, state, ExpertService(state, batcher), ScrubCounters())


def scrape(metrics: ExpertMetrics) -> dict[tuple[str, ...], float]:
    """All values of one scrape, by name and values of labels."""
    samples = [sample for family in metrics.collect() for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_the_hottest_and_coldest_are_named_by_rank(experts: Experts, batcher: Batcher, metrics: ExpertMetrics) -> None:
    before = scrape(metrics)
    assert before[f"{LOAD}_max",] == before[f"{LOAD}_mean",] == 0
    assert not any(name.startswith(f"{LOAD}_ranked") for name, *_ in before)

    for expert in range(experts.num_ffn):
        experts.load(1, expert)
    counts_LF = np.zeros((experts.num_layers, experts.num_ffn), np.int64)
    counts_LF[1] = [70, 10, 50, 0, 60, 20, 40, 30]
    counts_LF[0, 5] = 1000  # not loaded any more
    batcher.add((1, 1, 1, int(counts_LF.sum()), 0.0, [], counts_LF.ravel()))
    found = scrape(metrics)
    ranks = [str(rank) for rank in range(1, RANKS + 1)]
    assert [found[f"{LOAD}_ranked_expert", "hottest", rank] for rank in ranks] == [0, 4, 2, 6, 7]
    assert [found[f"{LOAD}_ranked_expert", "coldest", rank] for rank in ranks] == [3, 1, 5, 7, 6]
    assert {found[f"{LOAD}_ranked_layer", end, rank] for end in ("hottest", "coldest") for rank in ranks} == {1}
    largest = found[f"{LOAD}_max",]
    shares = [found[f"{LOAD}_ranked", end, "2"] / largest for end in ("hottest", "coldest")]
    assert shares == pytest.approx([60 / 70, 10 / 70])
    assert found[f"{LOAD}_mean",] / largest == pytest.approx(counts_LF[1].mean() / 70)


def test_no_expert_has_a_series_of_its_own(experts: Experts, metrics: ExpertMetrics) -> None:
    for expert in range(RANKS):
        experts.load(0, expert)
    few = scrape(metrics)
    for layer, expert in np.ndindex(experts.num_layers, experts.num_ffn):
        experts.load(layer, expert)
    assert scrape(metrics).keys() == few.keys()
