"""Routers scale on CPU under load."""

from __future__ import annotations

import pytest

from k8s.e2e.build import CannotDo
from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams


def test_routers_scale_up_on_cpu(cluster: Cluster, disturbed: Disturb) -> None:
    """Two routers ask for 50m each; ten streams take more than their target."""
    try:
        cluster.target.add_metrics()
    except CannotDo as cannot:
        pytest.skip(str(cannot))

    def wait(streams: Streams) -> None:
        until(lambda: len(cluster.pods("router")) > 2, "the autoscaler adds no router", 180)
        streams.more(1)

    cluster.install(
        "upgrade",
        router__replicas=2,
        router__autoscaling__enabled="true",
        router__autoscaling__maxReplicas=4,
        router__autoscaling__target=20,
    )
    disturbed("router autoscaler adds pods", wait)
    cluster.install("upgrade", router__replicas=2)
    cluster.scale("router", 2)
