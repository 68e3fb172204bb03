"""Each value does what its comment in values.yaml says."""

from typing import Any

import pytest
from support.chart_objects import EVERYTHING, WORKLOADS, Chart, Object, environment, find, pod_specs

from services.router.gateway.api_routes import ROUTES

pytestmark = pytest.mark.processes


def _pod(objects: list[Object], role: str) -> Object:
    specs = {name.rpartition("-")[2]: spec for name, spec in pod_specs(objects) if name.partition("/")[0] in WORKLOADS}
    return specs[role]


def _main(objects: list[Object], role: str) -> Object:
    container: Object = _pod(objects, role)["containers"][0]
    return container


def test_release_name_prefixes_every_object_once(chart: Chart) -> None:
    names = {thing["metadata"]["name"] for thing in chart.render()}
    assert {"caracal-attention", "caracal-expert", "caracal-router", "caracal-redis"} <= names
    renamed = {thing["metadata"]["name"] for thing in chart.render("fullnameOverride=lynx")}
    jobs = {
        name for name in names | renamed if "-certificates-" in name or "-replicas-" in name
    }  # which end in a digest of the pod
    assert renamed - jobs == {name.replace("caracal", "lynx") for name in names - jobs}


def test_a_role_overrides_what_all_pods_have(chart: Chart) -> None:
    objects = chart.render("pod.nodeSelector.pool=gpu,router.nodeSelector.pool=cpu", "expert.nodeSelector.disk=fast")
    assert _pod(objects, "attention")["nodeSelector"] == {"pool": "gpu"}
    assert _pod(objects, "router")["nodeSelector"] == {"pool": "cpu"}
    assert _pod(objects, "expert")["nodeSelector"] == {"pool": "gpu", "disk": "fast"}


def test_a_pod_has_one_rank_per_gpu(chart: Chart) -> None:
    for values, ranks in {"tp=4": "4", "accelerator.count=2": "2", "accelerator.count=1": None, "tp=1": None}.items():
        given = environment(_main(chart.render(f"attention.{values}", "link.allowPlainP2p=true"), "attention"))
        assert given.get("CARACAL_TP", {}).get("value") == ranks, values


GPU, CLAIM = "accelerator.count=1", "resourceClaims[0].name=gpu"
AMD = "accelerator.resourceName=amd.com/gpu"


@pytest.mark.parametrize(
    ("values", "device"),
    [
        ((), None),
        ((GPU,), "cuda"),
        ((CLAIM,), "cuda"),
        ((GPU, AMD), None),
        ((GPU, AMD, "device=cuda"), "cuda"),
        ((GPU, "device=cuda:1"), "cuda:1"),
        ((GPU, "device=cpu"), "cpu"),
    ],
)
def test_workers_run_on_the_gpus_they_request(chart: Chart, values: tuple[str, ...], device: str | None) -> None:
    for role, other in (("attention", "expert"), ("expert", "attention")):
        objects = chart.render(*(f"{role}.{value}" for value in values))
        assert environment(_main(objects, role)).get("CARACAL_DEVICE", {}).get("value") == device
        assert "CARACAL_DEVICE" not in environment(_main(objects, other))
        assert "CARACAL_DEVICE" not in environment(_main(objects, "router"))


def test_a_probe_is_replaced_as_a_whole(chart: Chart) -> None:
    objects = chart.render("expert.probes.liveness.tcpSocket.port=grpc")
    assert _main(objects, "expert")["livenessProbe"] == {"tcpSocket": {"port": "grpc"}}
    assert "httpGet" in _main(objects, "attention")["livenessProbe"]


def test_additions_to_a_pod(chart: Chart) -> None:
    objects = chart.render(
        "expert.env[0].name=A,expert.env[0].value=b,expert.envFrom[0].secretRef.name=s,expert.extraPorts[0].containerPort=1",
        "expert.extraVolumes[0].name=v,expert.extraVolumeMounts[0].name=v,expert.initContainers[0].name=i",
        "expert.extraContainers[0].name=c,expert.podLabels.l=x,expert.podAnnotations.a=y,expert.serviceAccountName=mine",
        "expert.priorityClassName=high,expert.runtimeClassName=nvidia,expert.schedulerName=volcano,image.pullSecrets[0].name=p",
        "expert.tolerations[0].key=gpu,expert.affinity.podAntiAffinity.x=1,expert.shmSize=1Gi",
    )
    pod, main = _pod(objects, "expert"), _main(objects, "expert")
    assert main["env"][-1] == {"name": "A", "value": "b"}
    assert main["envFrom"] == [{"secretRef": {"name": "s"}}]
    assert main["ports"][-1] == {"containerPort": 1}
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "shm", "v", "cluster-key", "mtls"}
    assert [mount["name"] for mount in main["volumeMounts"]] == ["tmp", "shm", "cluster-key", "mtls", "v"]
    assert pod["initContainers"] == [{"name": "i"}]
    assert pod["containers"][1] == {"name": "c"}
    assert pod["serviceAccountName"] == "mine"
    assert (pod["priorityClassName"], pod["runtimeClassName"], pod["schedulerName"]) == ("high", "nvidia", "volcano")
    assert pod["imagePullSecrets"] == [{"name": "p"}]
    metadata = find(objects, "StatefulSet", "caracal-expert")["spec"]["template"]["metadata"]
    assert metadata["labels"]["l"] == "x"
    assert metadata["annotations"] == {"a": "y"}


@pytest.mark.parametrize(
    ("uri", "path", "volume"),
    [
        ("builtin://caracal-tiny", "/app/models/caracal-tiny", None),
        (
            "pvc://models/flash/chat",
            "/model/flash/chat",
            {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        ),
        ("pvc://models", "/model", {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}),
        ("oci://flash:1", "/model", {"image": {"reference": "flash:1", "pullPolicy": "IfNotPresent"}}),
        ("hostPath:///srv/flash", "/model", {"hostPath": {"path": "/srv/flash", "type": "Directory"}}),
    ],
)
def test_the_uri_decides_where_the_checkpoint_comes_from(chart: Chart, uri: str, path: str, volume: Any) -> None:
    objects = chart.render(f"model.uri={uri}")
    for role in ("router", "attention", "expert"):
        assert environment(_main(objects, role))["CARACAL_MODEL"]["value"] == path
        found = [{**entry} for entry in _pod(objects, role)["volumes"] if entry["name"] == "model"]
        assert found == ([{"name": "model", **volume}] if volume else [])
        mounts = [mount for mount in _main(objects, role)["volumeMounts"] if mount["name"] == "model"]
        assert all(mount["readOnly"] for mount in mounts)
        assert bool(mounts) == bool(volume)


def test_external_redis_url_comes_from_the_secret(chart: Chart) -> None:
    env = environment(_main(chart.profile("external-redis"), "attention"))
    assert env["CARACAL_REDIS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "caracal-redis", "key": "url"}


def test_threads_follow_the_cpu_of_the_container(chart: Chart) -> None:
    def threads(*sets: str) -> Any:
        return environment(_main(chart.render(*sets), "expert")).get("CARACAL_THREADS", {})

    assert threads()["valueFrom"]["resourceFieldRef"]["resource"] == "requests.cpu"
    assert threads("expert.resources.limits.cpu=4")["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    assert threads("expert.threads=3")["value"] == "3"


def test_gpus_and_claims(chart: Chart) -> None:
    objects = chart.render("expert.accelerator.count=2,attention.resourceClaims[0].name=gpu")
    assert _main(objects, "expert")["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert _main(objects, "attention")["resources"]["claims"] == [{"name": "gpu"}]
    assert "nvidia.com/gpu" not in _main(objects, "router")["resources"]["limits"]


def test_rdma_settings_apply_to_attention_and_expert_pods_only(chart: Chart) -> None:
    off = chart.render("rdma.hostNetwork=true,rdma.hostIPC=true,rdma.resourceName=rdma/hca")
    assert "hostNetwork" not in _pod(off, "expert"), "nothing without rdma.enabled"
    on = chart.render("rdma.enabled=true,rdma.hostNetwork=true,rdma.hostIPC=true,rdma.resourceName=rdma/hca")
    for role in ("attention", "expert"):
        assert _pod(on, role)["hostNetwork"] is True
        assert _pod(on, role)["hostIPC"] is True
        assert _main(on, role)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
        assert _main(on, role)["resources"]["limits"]["rdma/hca"] == 1
    assert "hostNetwork" not in _pod(on, "router")
    assert "add" not in _main(on, "router")["securityContext"]["capabilities"]


def test_edge_of_the_tls_profile(chart: Chart) -> None:
    objects = chart.profile("tls")
    ingress = find(objects, "Ingress", "caracal-router")["spec"]
    assert ingress["tls"] == [{"secretName": "caracal-tls", "hosts": ["caracal.example.com"]}]
    for path in ingress["rules"][0]["http"]["paths"]:
        assert path["backend"]["service"] == {"name": "caracal-router", "port": {"name": "http"}}
    certificate = find(objects, "Certificate", "caracal-router")["spec"]
    assert certificate["secretName"] == "caracal-tls"
    assert certificate["dnsNames"] == ["caracal.example.com"]


def test_the_edge_publishes_only_what_clients_call(chart: Chart) -> None:
    objects = chart.render(*EVERYTHING)
    ingress = find(objects, "Ingress", "caracal-router")["spec"]["rules"][0]["http"]["paths"]
    route = find(objects, "HTTPRoute", "caracal-router")["spec"]["rules"][0]["matches"]
    assert {path["pathType"] for path in ingress} == {"Prefix"}
    assert [match["path"]["value"] for match in route] == [path["path"] for path in ingress]
    published = tuple(path["path"] for path in ingress)
    paths = [route.path for route in ROUTES]
    assert paths
    assert all(path.startswith(published) for path in (*paths, "/v1/models"))
    inside = ("/metrics", "/cluster", "/load", "/health", "/ready", "/version", "/openapi.json")
    assert not [path for path in inside if path.startswith(published)]


def test_a_host_of_star_matches_every_host(chart: Chart) -> None:
    rules = find(chart.render("ingress.enabled=true,ingress.hosts={*}"), "Ingress", "caracal-router")["spec"]["rules"]
    assert len(rules) == 1
    assert "host" not in rules[0]


def test_http_route_reaches_the_service_or_the_pool(chart: Chart) -> None:
    route = "httpRoute.enabled=true,httpRoute.parentRefs[0].name=public"
    plain = find(chart.render(route), "HTTPRoute", "caracal-router")["spec"]["rules"][0]
    assert plain["backendRefs"] == [{"name": "caracal-router", "port": 8000}]
    assert plain["timeouts"] == {"request": "0s"}
    pooled = chart.render(route, "inferencePool.enabled=true,inferencePool.endpointPicker.name=picker")
    assert find(pooled, "HTTPRoute", "caracal-router")["spec"]["rules"][0]["backendRefs"][0]["kind"] == "InferencePool"
    pool = find(pooled, "InferencePool", "caracal-router")["spec"]
    assert pool["targetPorts"] == [{"number": 8000}]
    assert pool["endpointPickerRef"] == {"name": "picker", "port": {"number": 9002}, "failureMode": "FailOpen"}


def test_extra_objects_pass_through_tpl(chart: Chart) -> None:
    objects = chart.render(
        "extraObjects[0].apiVersion=v1,extraObjects[0].kind=ConfigMap",
        "extraObjects[0].metadata.name=more-{{ .Release.Name }}",
    )
    assert find(objects, "ConfigMap", "more-caracal")


def test_spread_and_strategy_can_be_replaced(chart: Chart) -> None:
    objects = chart.render(
        "expert.topologySpreadConstraints[0].topologyKey=rack",
        "expert.updateStrategy.type=OnDelete,router.updateStrategy.type=Recreate",
    )
    assert _pod(objects, "expert")["topologySpreadConstraints"] == [{"topologyKey": "rack"}]
    assert "affinity" not in _pod(objects, "expert")
    assert find(objects, "StatefulSet", "caracal-expert")["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert find(objects, "Deployment", "caracal-router")["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("role", ["router", "attention", "expert", "redis"])
def test_pods_spread_over_nodes_always_and_over_zones_where_there_are_some(chart: Chart, role: str) -> None:
    """Both as constraints, a node without a zone would be left out of the score of either."""
    pod = _pod(chart.render(), role)
    (constraint,) = pod["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    (preferred,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    term = preferred["podAffinityTerm"]
    assert term["topologyKey"] == "topology.kubernetes.io/zone"
    for selects in (term, constraint):
        assert selects["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == role
    assert term["matchLabelKeys"] == constraint["matchLabelKeys"], "in a rollout, new pods spread among themselves"
    given = _pod(chart.render(f"{role}.affinity.nodeAffinity.x=y"), role)
    assert given["affinity"] == {"nodeAffinity": {"x": "y"}}


def test_expert_pods_know_their_node_and_its_zone(chart: Chart) -> None:
    env = environment(_main(chart.render(), "expert"))
    paths = {name: env[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in ("CARACAL_NODE", "CARACAL_ZONE")}
    zone = "metadata.labels['topology.kubernetes.io/zone']"
    assert paths == {"CARACAL_NODE": "spec.nodeName", "CARACAL_ZONE": zone}


def test_every_process_logs_at_the_level_of_the_values(chart: Chart) -> None:
    for level in ("", "DEBUG"):
        specs = dict(pod_specs(chart.render(f"logLevel={level}")))
        found = {
            name.partition("-")[2]: environment(spec["containers"][0]).get("CARACAL_LOG_LEVEL", {}).get("value", "")
            for name, spec in specs.items()
            if "CARACAL_" in str(spec["containers"][0].get("env"))
        }
        assert set(found.values()) == {level}
        assert len(found) == 6, "three roles, two Jobs and the CronJob"


def test_who_fetches_and_removes_weights_logs_at_that_level(chart: Chart) -> None:
    objects = chart.render("logLevel=WARNING,model.uri=hf://org/name@abc,model.fetch.mode=claim")
    specs = dict(pod_specs(objects))
    own = [
        spec["containers"][0]
        for name, spec in specs.items()
        if name.startswith(("Job/caracal-weights-", "Job/caracal-prune-"))
    ]
    waiting = [
        spec["initContainers"][0]
        for name, spec in specs.items()
        if name.partition("/")[0] in WORKLOADS and "initContainers" in spec
    ]
    assert (len(own), len(waiting)) == (2, 3)
    assert {environment(each)["CARACAL_LOG_LEVEL"]["value"] for each in (*own, *waiting)} == {"WARNING"}


def test_pods_leave_a_lost_node_after_the_seconds_given(chart: Chart) -> None:
    def seconds(*values: str) -> dict[str, int | None]:
        given = _pod(chart.render(*values), "router").get("tolerations", [])
        assert all((one["operator"], one["effect"]) == ("Exists", "NoExecute") for one in given)
        return {one["key"].rpartition("/")[2]: one.get("tolerationSeconds") for one in given}

    assert seconds() == {"not-ready": 30, "unreachable": 30}
    assert seconds("router.nodeLossSeconds=7") == {"not-ready": 7, "unreachable": 7}
    assert seconds("pod.nodeLossSeconds=0") == {}
    mine = "pod.tolerations[0].key=node.kubernetes.io/not-ready,pod.tolerations[0].operator=Exists"
    assert seconds(f"{mine},pod.tolerations[0].effect=NoExecute") == {"not-ready": None, "unreachable": 30}


def test_the_disk_of_tmp_is_limited(chart: Chart) -> None:
    for limit in ("4Gi", "100Mi"):
        for name, spec in pod_specs(chart.render(f"pod.tmpSizeLimit={limit}")):
            for volume in spec.get("volumes", []):
                if volume["name"] == "tmp":
                    assert volume["emptyDir"] == {"sizeLimit": limit}, name


def test_gateway_service_types(chart: Chart) -> None:
    def service(*sets: str) -> Object:
        found: Object = find(chart.render(*sets), "Service", "caracal-router")["spec"]
        return found

    assert service()["type"] == "ClusterIP"
    assert service("router.service.type=NodePort,router.service.nodePort=30080")["ports"][0]["nodePort"] == 30080
    balanced = service("router.service.type=LoadBalancer,router.service.loadBalancerSourceRanges={10.0.0.0/8}")
    assert balanced["loadBalancerSourceRanges"] == ["10.0.0.0/8"]


def test_images_by_digest_and_per_role(chart: Chart) -> None:
    digest = "sha256:" + "0" * 64
    objects = chart.render(f"image.registry=r.local:5000,image.digest={digest},router.image.repository=caracal-gateway")
    assert _main(objects, "expert")["image"] == f"r.local:5000/caracal@{digest}"
    assert _main(objects, "router")["image"] == f"r.local:5000/caracal-gateway@{digest}"
    tagged = chart.render("router.image.repository=gateway,router.image.tag=v7")
    assert (_main(tagged, "router")["image"], _main(tagged, "attention")["image"]) == ("gateway:v7", "caracal:0.1.0")
