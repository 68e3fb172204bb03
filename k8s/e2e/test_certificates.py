"""TLS between pods: the certificates that the release makes, and their renewal while streams run."""

from __future__ import annotations

import json
import re
from functools import partial

from k8s.e2e.cluster import Cluster, until
from k8s.e2e.conftest import Disturb
from k8s.e2e.streams import Streams

ROLES = ("router", "attention", "expert")
KUBELET_S = 180.0  # until pods have what is in a Secret


def _restarts(cluster: Cluster) -> dict[str, int]:
    pods = [pod for role in ROLES for pod in cluster.pods(role)]
    return {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}


def _metric(cluster: Cluster, role: str, name: str) -> float:
    pages = [cluster.ask(pod["metadata"]["name"], ":9090/metrics") for pod in cluster.pods(role)]
    return sum(float(value) for page in pages for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.M))


def _has_read_again(cluster: Cluster, pod: str) -> bool:
    return "the certificate has changed" in cluster.kubectl("logs", pod)


def test_certificates_are_renewed_while_streams_run(cluster: Cluster, disturbed: Disturb) -> None:
    """Without a restart, and rows stay on native sessions, which are encrypted."""
    secrets = [f"{cluster.release}-mtls-{role}" for role in ROLES]
    before = [cluster.get("secret", name)["data"] for name in secrets]

    def renew(streams: Streams) -> None:
        restarts = _restarts(cluster)
        for name in secrets:  # as if a third of its time were left
            cluster.kubectl("patch", "secret", name, "--type=merge", "-p", json.dumps({"data": {"tls.crt": ""}}))
        cluster.kubectl("create", "job", f"--from=cronjob/{cluster.release}-certificates", "renewal")
        cluster.kubectl("wait", "--for=condition=complete", "job/renewal", "--timeout=120s")
        for name in [pod["metadata"]["name"] for role in ROLES for pod in cluster.pods(role)]:
            until(partial(_has_read_again, cluster, name), f"{name} has not read its certificate again", KUBELET_S)
        cluster.scale("expert", 2)  # a pod with new certificates beside those that had old ones
        streams.wait_for_answers(2)
        assert restarts.items() <= _restarts(cluster).items()

    disturbed("certificates renewed", renew)
    after = [cluster.get("secret", name)["data"] for name in secrets]
    assert all(new["tls.crt"] != old["tls.crt"] for old, new in zip(before, after, strict=True))
    assert _metric(cluster, "attention", "caracal_native_calls_total") > 0
    assert _metric(cluster, "attention", "caracal_native_sessions_broken_total") == 0
    assert _metric(cluster, "expert", "caracal_tls_connections_with_calls_total") > 0
    cluster.kubectl("delete", "job", "renewal")
    cluster.scale("expert", 1)
    cluster.install("upgrade", router__initialReplicas=2)
    kept = [cluster.get("secret", name)["data"] for name in secrets]
    assert kept == after, "an upgrade leaves what the Job has written"


def test_workers_reject_whoever_has_no_certificate(cluster: Cluster) -> None:
    """From inside the cluster's network, without the kubelet's or a pod's certificate."""
    pod = cluster.pods("expert")[0]
    address = f"{pod['status']['podIP']}:50051"
    call = (
        "import sys, grpc\n"
        "from grpc_health.v1 import health_pb2, health_pb2_grpc\n"
        "try:\n"
        "    with grpc.insecure_channel(sys.argv[1]) as channel:\n"
        "        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)\n"
        "except grpc.RpcError as error:\n"
        "    print(error.code().name)\n"
    )
    said = cluster.kubectl("exec", cluster.pods("router")[0]["metadata"]["name"], "--", "python", "-c", call, address)
    assert said.strip() == "UNAVAILABLE"
    until(lambda: _metric(cluster, "expert", "caracal_tls_failed_handshakes_total") > 0, "it was not counted", 20)
