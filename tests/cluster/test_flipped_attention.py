"""A cluster whose only attention worker begins to compute wrongly: it finds that out itself, and everybody says so."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broken_worker import broken_worker
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, until

from services.cli.scale import serves
from services.cli.status_rows import rows
from services.membership.overview import Overview
from services.membership.record import WorkerRecord

pytestmark = pytest.mark.processes

WRONG = "attention-9"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("flipped"))


def serving(cluster: ClusterUnderTest) -> dict[str, WorkerRecord]:
    return {one.worker_id: one for one in cluster.records("attention") if serves(one)}


def metric(record: WorkerRecord, name: str) -> float:
    """The sum of a metric's samples, as a process shows it."""
    with urllib.request.urlopen(f"http://{record.metrics_address}/metrics", timeout=5) as page:
        lines = page.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", lines, re.M))


def test_it_is_in_quarantine_and_serves_on_alone(cluster: ClusterUnderTest, tmp_path: Path) -> None:
    expected = answer_of(cluster)
    when = tmp_path / "flip"
    # A larger share of its time, so that a busy machine has its rounds in time, too.
    with broken_worker(cluster, "flipped_attention", WRONG, {"FLIP_WHEN": str(when), "CARACAL_GOLDEN_SHARE": "0.1"}):
        until(lambda: WRONG in serving(cluster), "it does not serve", 30)
        cluster.query(lambda: cluster.membership.set_desired("attention", 0))
        until(lambda: set(serving(cluster)) == {WRONG}, "it is not alone", 30)
        assert answer_of(cluster) == expected
        alone = serving(cluster)[WRONG]
        until(lambda: metric(alone, "caracal_golden_rounds_total") > 20, "it does not check itself", 30)
        assert metric(alone, "caracal_golden_differences_total") == 0
        assert not serving(cluster)[WRONG].quarantined

        when.touch()
        reason = "it computes the golden tokens with other bits than when it joined, in layer 1 of the attention side"
        overview = [cluster.do(Overview.read(cluster.membership))]

        def warned() -> bool:
            overview.append(cluster.do(Overview.read(cluster.membership)))
            return f"{WRONG} is quarantined: {reason}" in overview[-1].warning

        until(warned, "it is not found", 30)
        assert when.read_text() == "layer 1 of the attention side"
        assert [row[1] for row in rows(overview[-1].workers) if row[0] == WRONG] == ["quarantined"]
        (router,) = cluster.records("router")
        until(lambda: metric(router, "caracal_quarantined_workers") == 1, "the leader does not count it", 20)
        assert metric(alone, "caracal_golden_differences_total") == 2
        assert len(answer_of(cluster)) == len(expected), "there is no other one, so it serves on"

        cluster.query(lambda: cluster.membership.set_desired("attention", 1))
        until(lambda: answer_of(cluster) == expected, "another one has joined, and gives no right answer", 30)
