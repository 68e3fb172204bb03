"""A node loses its power for good: what is replaced by itself, what after a taint, and what requests notice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.nodes import cordoned, out_of_service, without_power, worker_nodes
from k8s.e2e.records import Answer, Stalls
from k8s.e2e.report import Report
from k8s.e2e.streams import Streams
from k8s.e2e.targets import Target

VALUES = {"router__replicas": 3, "expert__replicas": 3, "attention__replicas": 1, "pod__nodeLossSeconds": 5}
CLOCKS_S = 2.0
IP = "{range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]} {end}"


@pytest.fixture
def lost(target: Target) -> Iterator[Cluster]:
    """A namespace for a release of its own, which goes with it."""
    worker_nodes(Cluster(target), 3)
    with temporary(target, "caracal-lost") as made:
        yield made


def test_pods_of_a_lost_node_are_replaced(lost: Cluster) -> None:
    """Its pods wait for a certificate that nobody makes: only where they are is looked at."""
    names = worker_nodes(lost, 3)[:3]
    lost.install("install", mtls__mode="existing", **VALUES)
    until(lambda: len(_nodes(lost, "router")) == len(_nodes(lost, "expert")) == 3, "pods are not scheduled")
    assert sorted(_nodes(lost, "router")) == sorted(_nodes(lost, "expert")) == sorted(names), "one on each node"
    node = names[-1]
    with without_power(lost, node):
        until(
            lambda: len(_nodes(lost, "router")) == 3 and node not in _nodes(lost, "router"), "no router elsewhere", 180
        )
        until(lambda: node in _nodes(lost, "expert", deleted=True), "its expert pod is not Terminating", 30)
        assert node not in _nodes(lost, "expert"), "and none has taken its place"
        with out_of_service(lost, node):
            until(
                lambda: len(_nodes(lost, "expert")) == 3 and node not in _nodes(lost, "expert"),
                "no expert elsewhere",
                60,
            )


def test_the_leading_router_removes_the_pods_of_a_lost_node(lost: Cluster) -> None:
    """Nobody taints anything: the release alone comes back to its size."""
    lost.install("install", lostPods__remove="true", **VALUES)
    lost.wait_for_rollouts()
    node = worker_nodes(lost, 3)[2]
    assert node in _nodes(lost, "expert")
    with without_power(lost, node):
        until(lambda: node in _nodes(lost, "expert", deleted=True), "its expert pod is not Terminating", 180)
        until(
            lambda: len(_nodes(lost, "expert")) == 3 and node not in _nodes(lost, "expert"), "no expert elsewhere", 120
        )
        lost.wait_for_rollouts()


def test_the_redis_of_a_lost_node_does_not_stop_the_next_rollout(lost: Cluster) -> None:
    """Its Deployment recreates its pod: that of a lost node, Terminating for ever, would be waited for."""
    *others, node = worker_nodes(lost, 3)[:3]
    lost.install("install", lostPods__remove="true", **VALUES)
    lost.wait_for_rollouts()
    with cordoned(lost, others):
        lost.kubectl("delete", "pod", lost.pods("redis")[0]["metadata"]["name"])
        until(lambda: _nodes(lost, "redis") == [node], "Redis does not come to that node")
    lost.wait_for_pods(redis=1, router=3)
    with without_power(lost, node):
        until(lambda: _nodes(lost, "redis", deleted=True) == [node], "its Redis is not Terminating", 180)
        until(lambda: not _nodes(lost, "redis", deleted=True), "nobody removes its Redis", 120)
        lost.install("upgrade", lostPods__remove="true", redis__podAnnotations__next="yes", **VALUES)
        lost.kubectl("rollout", "status", f"deployment/{lost.release}-redis", "--timeout=60s")


def test_one_of_three_routers_is_lost_with_its_node(lost: Cluster, disturbed: Disturb, report: Report) -> None:
    """Requests through the Service. Some fail: those at that router, and those that are sent there until Kubernetes
    says that the node is lost. Of the later ones none does."""
    lost.install("install", **VALUES | {"attention__replicas": 2}, placement__replicas=2)
    lost.wait_for_rollouts()
    first, _, node = worker_nodes(lost, 3)[:3]
    (address,) = [pod["status"]["podIP"] for pod in lost.pods("router") if pod["spec"]["nodeName"] == node]
    times: dict[str, float] = {}

    def lose(streams: Streams) -> None:
        times["lost"] = time.time()
        with without_power(lost, node):
            until(lambda: address not in _endpoints(lost), "the Service still sends to its router", 180)
            times["known"] = time.time()
            streams.wait_for_answers(2)

    def between(answer: Answer) -> bool:
        ended = answer.started + (answer.token_times[-1] if answer.token_times else 90_000) / 1000
        return ended > times["lost"] - CLOCKS_S and answer.started < times["known"] + CLOCKS_S

    event = "one of three routers lost with its node"
    answers = disturbed(event, lose, first, lost, between)
    failed = [answer for answer in answers if answer.error]
    share = len(failed) / sum(between(answer) for answer in answers)
    known_s = times["known"] - times["lost"]
    report.add(event, Stalls.of(answers), f"{known_s:.0f} s until Kubernetes said that it was lost")
    assert share < 2 / 3, f"{share:.0%} of the requests of that time failed, with one of three routers lost"


def _endpoints(cluster: Cluster) -> list[str]:
    """Addresses to which the routers' Service sends."""
    service = f"kubernetes.io/service-name={cluster.release}-router"
    return cluster.kubectl("get", "endpointslices", "-l", service, "-o", f"jsonpath={IP}").split()


def _nodes(cluster: Cluster, role: str, deleted: bool = False) -> list[str]:
    """The node of each of a role's pods, those that are not being deleted or those that are."""
    pods = [pod for pod in cluster.pods(role) if ("deletionTimestamp" in pod["metadata"]) == deleted]
    return [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]
