"""What every change must pass: install, `helm test`, workers up and down under streams."""

from __future__ import annotations

import pytest

from k8s.e2e.cluster import Cluster
from k8s.e2e.conftest import Disturbed
from k8s.e2e.streams import Streams

pytestmark = pytest.mark.short


def test_helm_test_streams_a_chat(cluster: Cluster) -> None:
    said = cluster.helm("test", cluster.release, "--logs")
    assert "finish_reason: stop" in said


def test_experts_scale_from_one_to_three_to_one(cluster: Cluster, disturbed: Disturbed) -> None:
    def scale(streams: Streams) -> None:
        cluster.scale("expert", 3)
        streams.more(1)
        cluster.scale("expert", 1)
        streams.more(1)

    disturbed("experts 1 to 3 to 1", scale)


def test_attention_scales_from_one_to_two_to_one(cluster: Cluster, disturbed: Disturbed) -> None:
    def scale(streams: Streams) -> None:
        cluster.scale("attention", 2)
        streams.more(2)
        cluster.scale("attention", 1)
        streams.more(1)

    disturbed("attention 1 to 2 to 1", scale)
