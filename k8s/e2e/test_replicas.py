"""Who owns `replicas`, by the real API server: Helm 4 and Helm 3, `kubectl apply`, and an autoscaler.

The workloads' pods are never scheduled: only their numbers are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from k8s.e2e.build import BUILD
from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.helm_versions import helm_program
from k8s.e2e.targets import Target
from k8s.image.packages import REPOSITORY
from k8s.tools.values import CHART

ROLES = ("router", "attention", "expert")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
OFF = {f"{role}__nodeSelector__caracal-e2e-off": "x" for role in (*ROLES, "redis")} | {"mtls__mode": "none"}


@pytest.fixture
def owned(target: Target, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yields a new release by the Helm of that version, whose values leave all numbers open."""
    program = helm_program(request.param)
    what = "open" if "leave_open" in request.node.name else "own"  # a namespace goes slowly: each test has its own
    with temporary(target, f"caracal-{what}-{request.param}", program) as owned:
        owned.install("install", expert__replicas="null", expert__initialReplicas=2, **OFF)
        yield owned


def _counts(cluster: Cluster) -> tuple[int, ...]:
    return tuple(cluster.replicas(role) for role in ROLES)


def _upgrade(cluster: Cluster, *flags: str, **values: object) -> None:
    cluster.install("upgrade", *flags, **({"expert__replicas": "null", "expert__initialReplicas": 2} | OFF | values))


@pytest.mark.parametrize("owned", [4, 3], indirect=True)
def test_a_number_that_the_values_leave_open_is_kept(owned: Cluster) -> None:
    until(lambda: _counts(owned) == (1, 1, 2), "the Job does not begin with the profile's numbers")
    owned.kubectl("scale", "statefulset/caracal-expert", "--replicas=4")
    owned.kubectl("scale", "deployment/caracal-router", "--replicas=3")
    owned.caracal("scale", "attention=2", "--timeout", "0")
    scaled = (3, 2, 4)
    _upgrade(owned)
    assert _counts(owned) == scaled
    _upgrade(owned, logLevel="DEBUG", image__pullPolicy="Never")  # another Job
    until(lambda: len(owned.get("jobs")["items"]) == 1, "the old Job is still there")
    job = owned.get("jobs")["items"][0]["metadata"]["name"]
    owned.kubectl("wait", "--for=condition=complete", f"job/{job}", "--timeout=120s")
    assert _counts(owned) == scaled, "a Job that runs again leaves the numbers"
    for revision in ("1", "2"):
        owned.helm("rollback", owned.release, revision)
        assert _counts(owned) == scaled
    autoscaler = {f"expert__autoscaling__{key}": value for key, value in {"minReplicas": 6, "maxReplicas": 6}.items()}
    _upgrade(owned, expert__autoscaling__enabled="true", **autoscaler)
    until(lambda: owned.replicas("expert") == 6, "the autoscaler does nothing")
    _upgrade(owned, expert__autoscaling__enabled="true", logLevel="INFO", **autoscaler)
    assert owned.replicas("expert") == 6
    _upgrade(owned)
    assert owned.replicas("expert") == 6, "switched off, its number stays"
    owned.helm("rollback", owned.release, "3")
    assert _counts(owned) == (3, 2, 6)


@pytest.mark.parametrize("owned", [4, 3], indirect=True)
def test_a_number_that_the_values_own_is_theirs(owned: Cluster) -> None:
    until(lambda: owned.replicas("expert") == 2, "the Job does not begin")
    _upgrade(owned, expert__replicas=3)  # no conflict with the Job, which has left the number to nobody
    assert owned.replicas("expert") == 3
    owned.kubectl("scale", "statefulset/caracal-expert", "--replicas=5")
    if owned.helm_program == "helm":
        with pytest.raises(RuntimeError, match=r"conflict .*\.spec\.replicas"):
            _upgrade(owned, expert__replicas=4)
        _upgrade(owned, "--force-conflicts", expert__replicas=4)
    else:
        _upgrade(owned, expert__replicas=4)
    assert owned.replicas("expert") == 4
    _upgrade(owned)
    assert owned.replicas("expert") == 4, "what the values no longer own is not reset"
    _upgrade(owned, logLevel="DEBUG")
    assert owned.replicas("expert") == 4


@pytest.mark.parametrize("flags", [(), ("--server-side",)])
def test_rendered_and_applied_again_the_numbers_stay(target: Target, flags: tuple[str, ...]) -> None:
    """As Argo CD and Flux do: rendered without a cluster, applied on the client or on the server."""
    with temporary(target, f"caracal-applied-{len(flags)}") as rendered:
        text = _rendered(rendered)
        rendered.kubectl("apply", *flags, "-f", "-", stdin=text)
        until(lambda: _counts(rendered) == (1, 1, 2), "the Job does not begin with the profile's numbers")
        rendered.kubectl("scale", "statefulset/caracal-expert", "--replicas=4")
        rendered.kubectl("apply", *flags, "-f", "-", stdin=text)
        assert _counts(rendered) == (1, 1, 4)


@pytest.mark.parametrize("flags", [(), ("--server-side",)])
def test_a_rendered_number_is_given_away(target: Target, flags: tuple[str, ...]) -> None:
    """In the steps of docs/runbooks.md; without them the number would become 1."""
    with temporary(target, f"caracal-given-{len(flags)}") as rendered:

        def apply(*values: str) -> None:
            rendered.kubectl("apply", *flags, "-f", "-", stdin=_rendered(rendered, *values))

        apply("expert.replicas=3")
        assert rendered.replicas("expert") == 3
        metadata = {"name": "caracal-expert"}
        part = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": {"replicas": 3}}
        if flags:
            hand_over = ("apply", *flags, "--field-manager=scaling", "-f", "-")
            rendered.kubectl(*hand_over, stdin=yaml.safe_dump(part))
        else:
            rendered.kubectl("annotate", "statefulset/caracal-expert", f"{LAST_APPLIED}-")
        apply()
        assert rendered.replicas("expert") == 3
        rendered.kubectl("scale", "statefulset/caracal-expert", "--replicas=4")
        apply()
        assert rendered.replicas("expert") == 4


def _rendered(cluster: Cluster, *more: str) -> str:
    values = [f"{name.replace('__', '.')}={value}" for name, value in OFF.items()] + list(more)
    sets = [part for one in values for part in ("--set", one)]
    profile = str(CHART / "profiles/cpu-tiny.yaml")
    return cluster.helm("template", "caracal", str(CHART), "-f", profile, "--skip-tests", *sets)


def test_the_manifests_applied_again_keep_the_numbers(target: Target) -> None:
    """In a namespace of this test's, by a folder on top of that of the repository."""
    with temporary(target, "caracal-manifests") as applied:
        folder = _on_top_of_the_manifests(applied.namespace)
        applied.kubectl("apply", "-k", folder)
        until(lambda: _counts(applied) == (1, 1, 2), "the Job does not begin with the profile's numbers")
        applied.kubectl("scale", "statefulset/caracal-expert", "--replicas=3")
        applied.kubectl("apply", "-k", folder)
        assert _counts(applied) == (1, 1, 3)


def _on_top_of_the_manifests(namespace: str) -> str:
    folder = BUILD.parent / "e2e-manifests"
    folder.mkdir(parents=True, exist_ok=True)
    base = "../" * len(folder.relative_to(REPOSITORY).parts) + "k8s/manifests"
    text = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text | {"namespace": namespace, "resources": [base]}))
    return str(folder)
