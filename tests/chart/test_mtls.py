"""TLS between pods: each has the certificate of its role and no other, and one account may read the authority's key."""

from __future__ import annotations

from dataclasses import fields

import pytest
from support.chart_objects import WORKLOADS, Chart, Object, environment, find, of_kind, pod_specs

from k8s.tools.helm import HelmRejected
from services.certificates.renewal import BELIEVED, CERT, KEY
from services.certificates.settings import CertificateSettings
from services.security.identity import ROLES, server_name, uri

pytestmark = pytest.mark.processes

VARIABLES = {"CARACAL_TLS_CERT": CERT, "CARACAL_TLS_KEY": KEY, "CARACAL_TLS_CA": BELIEVED}
CLUSTER = "caracal.caracal"
MADE = {"Job", "CronJob", "Issuer", "Certificate"}


def pods(objects: list[Object]) -> dict[str, Object]:
    return {name.rpartition("-")[2]: spec for name, spec in pod_specs(objects) if name.partition("/")[0] in WORKLOADS}


def mounted(spec: Object) -> dict[str, str]:
    """The Secrets with certificates that a pod has, and where."""
    paths = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    return {secret: paths[name] for name, secret in secrets.items() if "mtls" in secret}


@pytest.mark.parametrize("mode", ["job", "certManager", "existing"])
def test_each_role_has_its_own_certificate(chart: Chart, mode: str) -> None:
    found = pods(chart.render(f"mtls.mode={mode}"))
    for role in ROLES:
        ((secret, folder),) = mounted(found[role]).items()
        assert secret == f"caracal-mtls-{role}"
        given = environment(found[role]["containers"][0])
        assert {name: given[name]["value"] for name in VARIABLES} == {
            name: f"{folder}/{key}" for name, key in VARIABLES.items()
        }
        (volume,) = [one for one in found[role]["volumes"] if one["name"] == "mtls"]
        assert {item["key"] for item in volume["secret"]["items"]} == {CERT, KEY, BELIEVED}, "it waits for all three"
    assert not mounted(found["redis"])


def test_the_job_may_read_and_change_its_secrets_and_nothing_else(chart: Chart) -> None:
    objects = chart.render()
    names = [f"caracal-mtls-{one}" for one in ("ca", *ROLES)]
    for name in names:
        assert not {"data", "stringData"} & find(objects, "Secret", name).keys(), "an upgrade must not empty it"
    (rule,) = find(objects, "Role", "caracal-certificates")["rules"]
    assert rule == {"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get", "patch"]}
    (subject,) = find(objects, "RoleBinding", "caracal-certificates")["subjects"]
    accounts = {name: spec["serviceAccountName"] for name, spec in pod_specs(objects)}
    holders = {name for name, account in accounts.items() if account == subject["name"]}
    assert {name.partition("/")[0] for name in holders} == {"Job", "CronJob"}
    for name, spec in pod_specs(objects):
        if name in holders:
            given = {key: entry["value"] for key, entry in environment(spec["containers"][0]).items()}
            assert given.pop("HOME") == "/tmp"
            assert given.keys() <= {f"CARACAL_{field.name.upper()}" for field in fields(CertificateSettings)}
            assert (given["CARACAL_CLUSTER"], given["CARACAL_SECRETS"]) == (CLUSTER, "caracal-mtls")


def test_the_pods_of_the_cluster_and_the_job_name_one_cluster(chart: Chart) -> None:
    for sets in ((), ("cluster=flash.two",)):
        objects = chart.render(*sets)
        named = {
            str(environment(spec["containers"][0])["CARACAL_CLUSTER"]["value"])
            for _, spec in pod_specs(objects)
            if "CARACAL_CLUSTER" in environment(spec["containers"][0])
        }
        assert len(named) == 1


def test_another_pod_is_another_job(chart: Chart) -> None:
    """Kubernetes rejects a changed pod of a Job that exists."""
    names = {of_kind(chart.render(value), "Job")[0]["metadata"]["name"] for value in ("image.tag=a", "image.tag=b")}
    assert len(names) == 2
    longest = chart.render("fullnameOverride=a123456789b123456789c123456789d12345678")
    assert max(len(one["metadata"]["name"]) for one in of_kind(longest, "Job", "CronJob")) <= 63
    assert len(of_kind(longest, "CronJob")[0]["metadata"]["name"]) <= 52, "its Jobs' names are 11 longer"


def test_only_the_job_reaches_the_api_server_for_it(chart: Chart) -> None:
    spec = find(chart.render(), "NetworkPolicy", "caracal-certificates")["spec"]
    assert spec["ingress"] == []
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[443, 6443]]
    selected = spec["podSelector"]["matchLabels"]
    job, cron = (of_kind(chart.render(), kind)[0]["spec"] for kind in ("Job", "CronJob"))
    for template in (job["template"], cron["jobTemplate"]["spec"]["template"]):
        assert selected.items() <= template["metadata"]["labels"].items()


def test_cert_manager_issues_the_same_names(chart: Chart) -> None:
    objects = chart.render("mtls.mode=certManager", "mtls.certificateDays=30")
    issuer = find(objects, "Issuer", "caracal-mtls-ca")
    assert issuer["spec"] == {
        "ca": {"secretName": find(objects, "Certificate", "caracal-mtls-ca")["spec"]["secretName"]}
    }
    authority = find(objects, "Certificate", "caracal-mtls-ca")["spec"]
    assert authority["privateKey"]["rotationPolicy"] == "Never", "cert-manager's own default differs by its version"
    for role in ROLES:
        spec = find(objects, "Certificate", f"caracal-mtls-{role}")["spec"]
        assert spec["uris"] == [uri(CLUSTER, role)]
        assert spec["dnsNames"] == [server_name(CLUSTER, role)]
        assert spec["secretName"] == f"caracal-mtls-{role}"
        assert spec["usages"] == ["server auth", "client auth"]
        assert (spec["duration"], spec["renewBefore"]) == ("720h", "240h")
        assert spec["issuerRef"]["name"] == "caracal-mtls-ca"
    given = chart.render("mtls.mode=certManager", "mtls.issuerRef.name=vault", "mtls.issuerRef.kind=ClusterIssuer")
    made = {
        thing["metadata"]["name"].rpartition("-")[0] for thing in of_kind(given, "Issuer", "Job", "CronJob", "Secret")
    }
    assert made == {"caracal-cluster", "caracal-replicas"}, "the cluster key, and the Job of the first pods"
    assert find(given, "Certificate", "caracal-mtls-expert")["spec"]["issuerRef"] == {
        "name": "vault",
        "kind": "ClusterIssuer",
        "group": "cert-manager.io",
    }


@pytest.mark.parametrize("mode", ["existing", "none"])
def test_nothing_is_made_for_whoever_brings_certificates_or_wants_none(chart: Chart, mode: str) -> None:
    objects = chart.render(f"mtls.mode={mode}", "router.replicas=2,attention.replicas=2,expert.replicas=2")
    assert not [item for item in objects if item["kind"] in MADE or "mtls" in item["metadata"]["name"]]
    if mode == "none":
        for spec in pods(objects).values():
            assert not mounted(spec)
            assert not VARIABLES.keys() & environment(spec["containers"][0]).keys()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("link.kind=nccl", "link.kind is nccl, whose P2P groups cannot be encrypted"),
        ("attention.accelerator.count=2", "attention pods have several ranks on GPUs"),
        ("cluster=Not/A/Name", 'cluster is "Not/A/Name", which is part of names in certificates'),
        ("mtls.mode=maybe", "mtls"),
    ],
)
def test_what_cannot_be_is_said_when_rendering(chart: Chart, value: str, message: str) -> None:
    with pytest.raises(HelmRejected, match=message):
        chart.render(value)


@pytest.mark.parametrize("value", ["link.kind=nccl", "attention.accelerator.count=2"])
def test_what_cannot_be_encrypted_may_be_allowed(chart: Chart, value: str) -> None:
    found = pods(chart.render(value, "link.allowPlainP2p=true"))
    for role in ("attention", "expert"):
        assert environment(found[role]["containers"][0])["CARACAL_ALLOW_PLAIN_P2P"]["value"] == "1"
    plain = pods(chart.render(value, "mtls.mode=none"))
    assert "CARACAL_ALLOW_PLAIN_P2P" not in environment(plain["attention"]["containers"][0])
