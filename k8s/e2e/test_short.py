"""The tests that every change must pass: install, `helm test`, scaling workers under streams."""

from __future__ import annotations

import pytest

from k8s.e2e.cluster import Cluster
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

pytestmark = pytest.mark.short


def test_helm_test_streams_a_chat(cluster: Cluster) -> None:
    logs = cluster.helm("test", cluster.release, "--logs")
    assert "12 + 30 = 42" in logs
    assert "finish_reason: stop" in logs


@pytest.mark.parametrize(("role", "most"), [("expert", 3), ("attention", 2)])
def test_workers_scale_up_and_down(cluster: Cluster, disturbed: Disturb, role: str, most: int) -> None:
    def scale(streams: Streams) -> None:
        cluster.scale(role, most)
        streams.wait_for_answers(2)
        cluster.scale(role, 1)
        streams.wait_for_answers(1)

    disturbed(f"{role} 1 to {most} to 1", scale)
