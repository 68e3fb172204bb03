"""`caracal status --numerics`: what bits depend on, from the workers' own reports."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from support.cluster_harness import ClusterUnderTest

from services.cli.numerics import render_numerics
from services.cli.status import chosen_view, status
from services.membership.overview import Overview
from services.membership.record import WorkerRecord

PARTS = {"kernels": "avx2", "dtype": "bfloat16", "weights": "abc"}


def worker(name: str, numerics_class: str, **parts: str) -> WorkerRecord:
    return WorkerRecord(
        worker_id=name, role="expert", address="", boot_id="b", numerics_class=numerics_class, numerics=PARTS | parts
    )


def printed(overview: Overview) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_numerics(overview, "here"))
    return console.export_text()


def test_classes_stand_side_by_side_and_what_differs_is_marked() -> None:
    workers = worker("expert-0", "caracal-a"), worker("expert-1", "caracal-b", kernels="reference")
    text = printed(Overview(workers=workers))
    (kernels,) = [line for line in text.splitlines() if line.split()[:1] == ["kernels"]]
    assert kernels.split() == ["kernels", "avx2", "reference", "differs"]
    (dtype,) = [line for line in text.splitlines() if line.split()[:1] == ["dtype"]]
    assert dtype.split() == ["dtype", "bfloat16", "bfloat16"]


def test_without_workers_it_says_so() -> None:
    assert "no worker reports a class" in printed(Overview())


@pytest.mark.processes
def test_a_running_clusters_workers_agree(cluster: ClusterUnderTest) -> None:
    overview = cluster.do(Overview.read(cluster.local.membership))
    numerics = [record.numerics for record in overview.workers if record.numerics_class]
    assert len(numerics) >= 2
    common = [{part: value for part, value in one.items() if part != "attention"} for one in numerics]
    assert all(one == common[0] for one in common)
    assert len({one["attention"] for one in numerics if "attention" in one}) == 1
    assert list(common[0]) == ["kernels", "probe", "dtype", "dispatch_dtype", "kv_dtype", "weights"]
    (router,) = cluster.records("router")
    assert status(watch=False, gateway=f"http://{router.metrics_address}", view=chosen_view(numerics=True, every=False))
