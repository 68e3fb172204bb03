"""The authorities of the image, and the profile `external-redis` against a Redis over TLS with one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from k8s.e2e.bare_pods import container, named, pod
from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.own_authority import issue
from k8s.e2e.targets import Target
from k8s.tools.values import CHART

USER, PASSWORD = "caracal", "p@ss/w?rd#:%&=+[é"
PORT = 6380
STORE = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"


@pytest.fixture(scope="module")
def external(target: Target) -> Iterator[Cluster]:
    """Yields a namespace with a Redis over TLS, the Secret of its URL and the ConfigMap of its authority."""
    with temporary(target, "caracal-external") as external:
        _add_redis(external)
        yield external


def _add_redis(external: Cluster) -> None:
    host = f"tls-redis.{external.namespace}.svc"
    authority, certificate, key = issue(host)
    url = f"rediss://{USER}:{quote(PASSWORD, safe='')}@{host}:{PORT}/0"
    program = Path(__file__).with_name("tls_redis.py").read_text()
    external.apply(
        named("ConfigMap", "tls-redis", data={"tls_redis.py": program}),
        named("Secret", "tls-redis", stringData={"tls.crt": certificate, "tls.key": key}),
        named("Secret", "caracal-redis", stringData={"url": url}),
        named("ConfigMap", "caracal-ca", data={"ca.crt": authority}),
        named("Service", "tls-redis", spec={"selector": {"app": "tls-redis"}, "ports": [{"port": PORT}]}),
        named("Pod", "tls-redis", {"app": "tls-redis"}, spec=_redis(external.image)),
    )


def _log_of_a_router(cluster: Cluster) -> str:
    """Empty while there is none."""
    return "".join(cluster.kubectl("logs", pod["metadata"]["name"]) for pod in cluster.pods("router")[:1])


def _redis(image: str) -> dict[str, Any]:
    program = ["python", "/program/tls_redis.py", "redis-server", str(PORT), "/tls", USER, PASSWORD]
    mounts = {"program": "/program", "tls": "/tls"}
    volumes = [
        {"name": "program", "configMap": {"name": "tls-redis"}},
        {"name": "tls", "secret": {"secretName": "tls-redis"}},
    ]
    return pod([container("redis", image, program, mounts, PORT)], volumes)


def test_an_external_redis_over_tls(external: Cluster) -> None:
    """An ACL user, a password with every kind of character, a private authority, and what the image itself trusts."""
    external.kubectl("wait", "--for=condition=Ready", "pod/tls-redis", "--timeout=120s")
    profile = ("-f", str(CHART / "profiles/external-redis.yaml"))
    values = {"mtls__mode": "none", "attention__initialReplicas": 1, "router__initialReplicas": 1}
    external.install("install", *profile, **values)
    until(lambda: "certificate verify failed" in _log_of_a_router(external), "an unknown authority is accepted")
    external.install("upgrade", *profile, **values, caBundle__configMap="caracal-ca")
    external.wait_for_rollouts()
    external.wait_for_pods(router=1, attention=1, expert=1)
    logs = external.helm("test", external.release, "--logs")
    assert "12 + 30 = 42" in logs
    router = external.pods("router")[0]["metadata"]["name"]
    assert int(external.kubectl("exec", router, "--", "python", "-c", STORE)) > 100
    assert not external.pods("redis")
