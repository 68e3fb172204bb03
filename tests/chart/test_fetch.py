"""Weights of a hub or a bucket: who fetches them, into what, with which environment, and who waits."""

from __future__ import annotations

from typing import Any

import pytest
from support.chart_objects import Chart, Object, environment, find, jobs_of, of_kind, pod_specs

from k8s.tools.helm import HelmRejected

pytestmark = pytest.mark.processes

ROLES = {"router": "Deployment", "attention": "StatefulSet", "expert": "StatefulSet"}
URI = "hf://org/name@abc"
CLAIM = (f"model.uri={URI}", "model.fetch.mode=claim")
S3 = "model.uri=s3://weights/flash,model.fetch.existingSecret=keys,model.fetch.endpoint=https://minio.example.com:9000"


def pod(objects: list[Object], role: str) -> Object:
    found: Object = find(objects, ROLES[role], f"caracal-{role}")["spec"]["template"]["spec"]
    return found


def init(objects: list[Object], role: str) -> Object:
    (found,) = pod(objects, role)["initContainers"]
    assert isinstance(found, dict)
    return found


def model_volume(spec: Object) -> Any:
    (found,) = [volume for volume in spec["volumes"] if volume["name"] == "model"]
    return {key: value for key, value in found.items() if key != "name"}


def mount(container: Object) -> Any:
    (found,) = [one for one in container["volumeMounts"] if one["name"] == "model"]
    return found


def test_pods_fetch_what_their_role_reads(chart: Chart) -> None:
    objects = chart.render(f"model.uri={URI}")
    path = environment(pod(objects, "expert")["containers"][0])["CARACAL_MODEL"]["value"]
    assert path.startswith("/model/")
    for role in ROLES:
        fetch = ["caracal", "fetch", URI, path, "--connections", "8"]
        assert init(objects, role)["command"] == fetch + (["--no-weights"] if role == "router" else [])
        assert model_volume(pod(objects, role)) == {"emptyDir": {"sizeLimit": "20Gi"}}
        assert mount(pod(objects, role)["containers"][0])["readOnly"] is True
    assert not of_kind(objects, "PersistentVolumeClaim")
    other = environment(pod(chart.render("model.uri=hf://org/name@def"), "expert")["containers"][0])
    assert other["CARACAL_MODEL"]["value"] != path, "another revision lies elsewhere"


def test_a_web_servers_files_are_fetched_as_others_are(chart: Chart) -> None:
    uri = "https://models.example.com:8443/flash"
    objects = chart.render(f"model.uri={uri},model.fetch.manifest=s3://weights/m")
    assert init(objects, "expert")["command"][:3] == ["caracal", "fetch", uri]
    assert "HF_ENDPOINT" not in environment(init(objects, "expert"))


def test_a_claim_is_filled_by_one_job_for_which_pods_wait(chart: Chart) -> None:
    objects = chart.render(*CLAIM, "model.fetch.claim.size=2Ti,model.fetch.claim.storageClass=fast")
    claim = find(objects, "PersistentVolumeClaim", "caracal-weights")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Ti"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    job = dict(pod_specs(objects))[jobs_of(objects, "weights")]
    path = environment(pod(objects, "expert")["containers"][0])["CARACAL_MODEL"]["value"]
    assert job["containers"][0]["command"] == ["caracal", "fetch", URI, path, "--connections", "8"]
    assert model_volume(job) == {"persistentVolumeClaim": {"claimName": "caracal-weights"}}
    assert job["automountServiceAccountToken"] is False
    assert "readOnly" not in mount(job["containers"][0])
    for role in ROLES:
        assert init(objects, role)["command"] == ["caracal", "fetch", URI, path, "--wait"]
        assert mount(init(objects, role))["readOnly"] is True
        assert model_volume(pod(objects, role))["persistentVolumeClaim"]["readOnly"] is True


def test_a_claim_is_compared_with_its_digests_by_another_job(chart: Chart) -> None:
    plain = chart.render(*CLAIM)
    seen = {jobs_of(plain, "weights")}
    for text in ("2026-12-01", "2026-12-02"):
        objects = chart.render(*CLAIM, f"model.fetch.verify={text}")
        assert dict(pod_specs(objects))[jobs_of(objects, "weights")]["containers"][0]["command"][-1] == "--verify"
        seen.add(jobs_of(objects, "weights"))
        assert all(pod(objects, role) == pod(plain, role) for role in ROLES), "no pod restarts for it"
    assert len(seen) == 3


def test_a_claim_of_yours_is_used_as_it_is(chart: Chart) -> None:
    objects = chart.render(*CLAIM, "model.fetch.claim.existing=mine")
    assert not of_kind(objects, "PersistentVolumeClaim")
    assert model_volume(dict(pod_specs(objects))[jobs_of(objects, "weights")])["persistentVolumeClaim"] == {
        "claimName": "mine"
    }


def test_old_models_are_removed_by_a_job_that_may_list_pods(chart: Chart) -> None:
    objects = chart.render(*CLAIM, "model.fetch.claim.keep=3,events.apiServer[0].ipBlock.cidr=10.0.0.1/32")
    job = dict(pod_specs(objects))[jobs_of(objects, "prune")]
    path = environment(pod(objects, "expert")["containers"][0])["CARACAL_MODEL"]["value"]
    assert job["containers"][0]["command"] == ["caracal", "prune", path, "--keep", "3"]
    assert model_volume(job) == {"persistentVolumeClaim": {"claimName": "caracal-weights"}}
    assert "readOnly" not in mount(job["containers"][0])
    account = job["serviceAccountName"]
    assert find(objects, "RoleBinding", "caracal-prune")["subjects"][0]["name"] == account == "caracal-prune"
    assert find(objects, "Role", "caracal-prune")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    ]
    fetches = dict(pod_specs(objects))[jobs_of(objects, "weights")]
    assert fetches["serviceAccountName"] != account, "who fetches has no rights"
    egress = find(objects, "NetworkPolicy", "caracal-prune")["spec"]["egress"]
    assert {"ipBlock": {"cidr": "10.0.0.1/32"}} in [peer for rule in egress for peer in rule.get("to", [])]


@pytest.mark.parametrize("values", ["model.fetch.claim.keep=0", "model.fetch.claim.existing=mine"])
def test_where_all_stay_and_in_a_claim_of_yours_nothing_is_removed(chart: Chart, values: str) -> None:
    names = [thing["metadata"]["name"] for thing in chart.render(*CLAIM, values)]
    assert not [name for name in names if name.startswith("caracal-prune")]


def test_another_model_is_another_job(chart: Chart) -> None:
    other = chart.render("model.uri=hf://org/name@def", "model.fetch.mode=claim")
    for component in ("weights", "prune"):
        assert jobs_of(chart.render(*CLAIM), component) != jobs_of(other, component)
    assert chart.render(*CLAIM) == chart.render(*CLAIM)


def test_a_cache_of_the_node_or_any_other_volume(chart: Chart) -> None:
    cache = "model.fetch.volume.hostPath.path=/var/cache/caracal,model.fetch.volume.hostPath.type=Directory"
    objects = chart.render(f"model.uri={URI}", cache)
    for role in ROLES:
        assert model_volume(pod(objects, role)) == {"hostPath": {"path": "/var/cache/caracal", "type": "Directory"}}
    driver = chart.render(f"model.uri={URI}", "model.fetch.volume.csi.driver=cache.example.com")
    assert model_volume(pod(driver, "expert")) == {"csi": {"driver": "cache.example.com"}}


def test_workers_with_slices_fetch_while_they_run(chart: Chart) -> None:
    objects = chart.render(S3, "model.fetch.mode=slices,model.fetch.proxy=http://proxy:3128,model.fetch.noProxy=.svc")
    for role in ("attention", "expert"):
        assert init(objects, role)["command"][-1] == "--slices"
        container = pod(objects, role)["containers"][0]
        assert "readOnly" not in mount(container)
        assert environment(container)["AWS_ENDPOINT_URL"]["value"] == "https://minio.example.com:9000"
        assert environment(container)["HTTPS_PROXY"]["value"] == "http://proxy:3128"
        assert environment(container)["NO_PROXY"]["value"] == ".svc"
        assert {"secretRef": {"name": "keys"}} in container["envFrom"]
    router = pod(objects, "router")["containers"][0]
    assert init(objects, "router")["command"][-1] == "--no-weights"
    assert mount(router)["readOnly"] is True
    assert "AWS_ENDPOINT_URL" not in environment(router)


def test_tokens_endpoints_and_further_options(chart: Chart) -> None:
    hub = chart.render(f"model.uri={URI},model.hf.existingSecret=token,model.fetch.endpoint=https://hub.example.com")
    env = environment(init(hub, "expert"))
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "token", "key": "token"}
    assert env["HF_ENDPOINT"]["value"] == "https://hub.example.com"
    bucket = chart.render(
        S3, "model.fetch.unverified=true,model.fetch.manifest=s3://weights/m,model.fetch.connections=3"
    )
    command = init(bucket, "expert")["command"]
    assert command[2] == "s3://weights/flash"
    assert command[4:] == ["--connections", "3", "--manifest", "s3://weights/m", "--unverified"]
    assert init(bucket, "expert")["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "HF_TOKEN" not in environment(init(bucket, "expert"))


def test_only_who_fetches_may_leave_the_cluster(chart: Chart) -> None:
    def open_ports(objects: list[Object], name: str) -> list[int]:
        egress = find(objects, "NetworkPolicy", f"caracal-{name}")["spec"]["egress"]
        return [port["port"] for rule in egress if "to" not in rule for port in rule["ports"] if port["port"] != 53]

    assert open_ports(chart.render(S3, "model.fetch.ports={8443}"), "default-deny") == [8443, 9000]
    claim = chart.render(*CLAIM)
    assert open_ports(claim, "default-deny") == []
    assert open_ports(claim, "weights") == [443]
    assert open_ports(chart.render(), "default-deny") == []


HUB, BUCKET, MINIO = f"model.uri={URI}", "model.uri=s3://weights/flash", "model.fetch.endpoint=http://minio:9000"
PROXY = "model.fetch.proxy=http://user:secret@proxy:3128"


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ((HUB,), [443]),
        ((HUB, "model.fetch.endpoint=http://hub"), [80]),
        ((BUCKET, MINIO), [9000]),
        ((BUCKET, MINIO, PROXY), [3128]),
        ((BUCKET, MINIO, PROXY, "model.fetch.noProxy=minio"), [3128, 9000]),
        ((HUB, "model.fetch.proxy=https://proxy/"), [443]),
        (("model.uri=https://models.example.com:8443/flash",), [8443]),
        ((BUCKET, "model.fetch.manifest=https://[fd00::1]:8444/m"), [443, 8444]),
        ((BUCKET, "model.fetch.manifest=s3://weights/m"), [443]),
    ],
)
def test_the_ports_are_those_of_the_source_or_the_proxy(
    chart: Chart, values: tuple[str, ...], ports: list[int]
) -> None:
    """What is fetched from a port that the policy blocks waits for ever."""
    for mode, name in (("pods", "default-deny"), ("claim", "weights")):
        egress = find(chart.render(*values, f"model.fetch.mode={mode}"), "NetworkPolicy", f"caracal-{name}")["spec"]
        found = [rule["ports"] for rule in egress["egress"] if "to" not in rule]
        assert found == [[{"protocol": "TCP", "port": port} for port in ports]]


def test_who_has_no_keys_of_a_bucket_reaches_the_metadata_service(chart: Chart) -> None:
    def links(*values: str) -> list[list[int]]:
        egress = find(chart.render(*values), "NetworkPolicy", "caracal-default-deny")["spec"]["egress"]
        return [
            [port["port"] for port in rule["ports"]] for rule in egress if "169.254.0.0/16" in str(rule.get("to", []))
        ]

    assert links(BUCKET) == links("model.uri=gs://weights/flash") == [[80, 988]]
    assert links(S3) == links(HUB) == links() == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("model.fetch.mode=claim", "which is not fetched"),
        (f"model.uri={URI},model.fetch.mode=claim,model.fetch.volume.emptyDir.medium=Memory", "the volume is model"),
        ("model.uri=s3://B/x", "write s3://BUCKET"),
        ("model.uri=gs://", "write gs://BUCKET"),
        ("model.uri=https://user:secret@host/x", "write https://HOST/FOLDER"),
        ("model.uri=https://host/x,model.fetch.endpoint=https://x", "https:// names it"),
        ("model.uri=gs://bucket,model.fetch.endpoint=https://x", "has no other"),
        (f"model.uri={URI},model.fetch.mode=sometimes", "mode"),
        (f"model.uri={URI},model.fetch.verify=now", "a pod that starts anew"),
        (f"model.uri={URI},model.fetch.claim.size=lots", "size"),
    ],
)
def test_what_does_not_go_together_is_rejected(chart: Chart, values: str, why: str) -> None:
    with pytest.raises(HelmRejected, match=why):
        chart.render(values)
