"""Routers scale on CPU under load."""

from __future__ import annotations

import pytest

from k8s.e2e.build import NotSupported
from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams


def test_routers_scale_up_on_cpu(cluster: Cluster, disturbed: Disturb) -> None:
    """Two routers request 50m of CPU each; ten streams use more than the target of 20 %."""
    try:
        cluster.target.add_metrics()
    except NotSupported as error:
        pytest.skip(str(error))

    def wait(streams: Streams) -> None:
        until(lambda: len(cluster.pods("router")) > 2, "the autoscaler added no router", 180)
        streams.wait_for_answers(1)

    cluster.install(
        "upgrade",
        router__initialReplicas=2,
        router__autoscaling__enabled="true",
        router__autoscaling__maxReplicas=4,
        router__autoscaling__target=20,
    )
    disturbed("router autoscaler adds pods", wait)
    cluster.install("upgrade", router__initialReplicas=2)
    cluster.scale("router", 2)
