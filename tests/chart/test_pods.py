"""Every pod of every profile has PodSecurity `restricted`, resources, probes and time to drain."""

import pytest
from support.chart_objects import (
    EVERYTHING,
    ONCE,
    Chart,
    Object,
    containers,
    environment,
    find,
    jobs_of,
    of_kind,
    pod_specs,
)

from k8s.tools.render import PROFILES
from services.process.own_health import CALL_S

pytestmark = pytest.mark.processes

DRAIN_TIMEOUT = "CARACAL_DRAIN_TIMEOUT_S"
RENDERS = (*PROFILES, "defaults", "everything")


@pytest.fixture(params=RENDERS)
def objects(request: pytest.FixtureRequest, chart: Chart) -> list[Object]:
    if request.param in PROFILES:
        return chart.profile(request.param)
    return chart.render(*(EVERYTHING if request.param == "everything" else ()))


def test_pods_are_restricted(objects: list[Object]) -> None:
    for name, spec in pod_specs(objects):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is (
            name == "Deployment/caracal-router" or name.startswith(("Job/", "CronJob/"))
        ), name
        assert not {"hostNetwork", "hostIPC", "hostPID"} & spec.keys(), name
        assert all("hostPath" not in volume for volume in spec.get("volumes", [])), name


def test_containers_are_restricted(objects: list[Object]) -> None:
    for name, spec in pod_specs(objects):
        for container in containers(spec):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name


def test_containers_have_requests_and_a_memory_limit(objects: list[Object]) -> None:
    for name, spec in pod_specs(objects):
        for container in containers(spec):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), name
            assert "memory" in resources["limits"], name


def test_the_small_profile_fits_a_laptop_and_drains_in_a_rollout(chart: Chart) -> None:
    objects = chart.profile("cpu-tiny")
    mebibytes, cores = 0, 0
    env = environment(dict(pod_specs(objects))[jobs_of(objects, "replicas")]["containers"][0])
    first = dict(one.split("=") for one in env["CARACAL_INITIAL_REPLICAS"]["value"].split())
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        requests = thing["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        pods = int(first.get(f"{thing['kind'].lower()}s/{thing['metadata']['name']}", 1))
        mebibytes += pods * int(requests["memory"].removesuffix("Mi"))
        cores += pods * int(requests["cpu"].removesuffix("m"))
    assert mebibytes < 1536
    assert cores <= 500
    assert int(first["statefulsets/caracal-expert"]) > 1, "another pod can load the experts"


def test_containers_have_all_three_probes(objects: list[Object]) -> None:
    for name, spec in pod_specs([thing for thing in objects if thing["kind"] not in ONCE]):
        for container in spec["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name


def test_each_worker_probe_checks_its_own_service(objects: list[Object]) -> None:
    for thing in of_kind(objects, "StatefulSet"):
        container = thing["spec"]["template"]["spec"]["containers"][0]
        for name in ("startup", "readiness", "liveness"):
            probe = container[f"{name}Probe"]
            assert probe["httpGet"] == {"path": f"/health/{name}", "port": "metrics"}
            assert probe["timeoutSeconds"] > CALL_S, "the process's own answer, if it is late, still comes"


def test_grace_period_exceeds_pre_stop_and_drain(objects: list[Object]) -> None:
    for name, spec in pod_specs([thing for thing in objects if thing["kind"] not in ONCE]):
        container = spec["containers"][0]
        pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drains = [int(entry["value"]) for entry in container["env"] if entry["name"] == DRAIN_TIMEOUT]
        assert spec["terminationGracePeriodSeconds"] > pre_stop + sum(drains), name
        assert len(drains) == (container["name"] != "redis"), name


def test_images_are_pinned(objects: list[Object]) -> None:
    for name, spec in pod_specs(objects):
        for container in containers(spec):
            assert "@sha256:" in container["image"] or container["image"].rpartition(":")[2] not in ("", "latest"), name


def test_objects_carry_the_standard_labels(objects: list[Object]) -> None:
    wanted = {
        f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "version", "part-of", "managed-by")
    }
    for thing in objects:
        assert wanted | {"helm.sh/chart"} <= thing["metadata"]["labels"].keys(), thing["metadata"]["name"]
        cluster_scoped = thing["kind"].startswith("ValidatingAdmissionPolicy")
        assert thing["metadata"].get("namespace") == (None if cluster_scoped else "caracal")


def test_selectors_use_only_labels_that_never_change(objects: list[Object]) -> None:
    fixed = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
    for thing in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        selector = thing["spec"]["selector"]["matchLabels"]
        assert selector.keys() == fixed, thing["metadata"]["name"]
        template = thing["spec"].get("template")
        assert template is None or selector.items() <= template["metadata"]["labels"].items()
    for thing in of_kind(objects, "Service"):
        assert thing["spec"]["selector"].keys() == fixed


def test_new_chart_version_restarts_no_pod(objects: list[Object]) -> None:
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        assert "helm.sh/chart" not in thing["spec"]["template"]["metadata"]["labels"]


def test_workers_are_parallel_statefulsets_with_headless_services(objects: list[Object]) -> None:
    for role in ("attention", "expert"):
        spec = find(objects, "StatefulSet", f"caracal-{role}")["spec"]
        assert spec["podManagementPolicy"] == "Parallel"
        service = find(objects, "Service", spec["serviceName"])["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"] is True


def test_disruption_budgets_allow_drains(objects: list[Object]) -> None:
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert {thing["metadata"]["name"] for thing in budgets} == {"caracal-router", "caracal-attention", "caracal-expert"}
    for thing in budgets:
        assert thing["spec"]["maxUnavailable"] == 1
        assert thing["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
