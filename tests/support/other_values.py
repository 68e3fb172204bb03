"""For every value of the chart another one, and the values beside it with which it matters."""

from __future__ import annotations

from typing import Any

from k8s.tools.constraints import CONSTRAINTS
from k8s.tools.values import ROLES, Entry, read_entries

HF, CLAIM = "model.uri=hf://org/name@abc", "model.uri=hf://org/name@abc,model.fetch.mode=claim"
EXTERNAL = "redis.enabled=false,externalRedis.existingSecret=mine"
INGRESS = "ingress.enabled=true,ingress.hosts={a.example.com}"
ROUTE = "httpRoute.enabled=true,httpRoute.parentRefs[0].name=public"
POOL = "inferencePool.enabled=true,inferencePool.endpointPicker.name=picker"
SHAPE = (
    "model.shape.layers=2,model.shape.experts=8,model.shape.hiddenSize=1024,model.shape.expertSize=1024,"
    "scaleGuard.enabled=true,expert.accelerator.memoryGiB=1,expert.accelerator.count=1"
)
# Beginnings of names; the longest that fits counts.
BESIDE = {
    "model.hf": HF,
    "model.hf.secretKey": f"{HF},model.hf.existingSecret=token",
    "model.fetch": HF,
    "model.fetch.claim": CLAIM,
    "model.fetch.verify": CLAIM,
    "model.fetch.resources": CLAIM,
    "model.shape": SHAPE,
    "link.openPorts": "link.kind=nccl,link.allowPlainP2p=true",
    "router.apiKeys": "router.apiKeys.existingSecret=keys,monitoring.monitors.enabled=true",
    "router.service.nodePort": "router.service.type=NodePort",
    "router.service.loadBalancer": "router.service.type=LoadBalancer",
    "router.autoscaling": "router.autoscaling.enabled=true",
    "attention.autoscaling": "attention.autoscaling.enabled=true,attention.autoscaling.kind=keda",
    "expert.autoscaling": "expert.autoscaling.enabled=true",
    "redis.secretKey": "redis.existingSecret=mine",
    "redis.previousSecretKey": "redis.existingSecret=mine",
    "redis.requirePassword": "redis.existingSecret=mine",
    "externalRedis": EXTERNAL,
    "externalRedis.url": "redis.enabled=false,externalRedis.url=redis://a",
    "nextRedis": "nextRedis.existingSecret=there",
    "nextRedis.url": "",
    "mtls.issuerRef": "mtls.mode=certManager,mtls.issuerRef.name=ca",
    "caBundle.key": "caBundle.configMap=mine",
    "tls.mode": INGRESS,
    "tls.secretName": f"{INGRESS},tls.mode=secret",
    "tls.issuerRef": f"{INGRESS},tls.mode=certManager,tls.issuerRef.name=ca",
    "ingress": INGRESS,
    "ingress.enabled": "",
    "httpRoute": ROUTE,
    "httpRoute.enabled": "",
    "inferencePool": POOL,
    "inferencePool.enabled": "",
    "monitoring.monitors": "monitoring.monitors.enabled=true",
    "monitoring.rules": "monitoring.rules.enabled=true",
    "monitoring.dashboards": "monitoring.dashboards.enabled=true",
    "monitoring.monitors.enabled": "",
    "monitoring.rules.enabled": "",
    "monitoring.dashboards.enabled": "",
    "tracing": "tracing.endpoint=http://otel:4317",
    "tracing.endpoint": "",
    "rdma": "rdma.enabled=true",
    "rdma.enabled": "",
}
# Where the type alone does not give one. What begins with "." goes after the name.
OTHER = {
    "nameOverride": "lynx",
    "fullnameOverride": "lynx",
    "image.repository": "other/caracal",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullSecrets": "[0].name=p",
    "model.uri": "pvc://models",
    "model.fetch.mode": "claim",
    "model.fetch.volume": ".csi.driver=cache",
    "model.fetch.manifest": "https://models.example.com/m",
    "model.fetch.endpoint": "https://hub.example.com",
    "model.fetch.proxy": "http://proxy:3128",
    "model.fetch.env": "[0].name=A",
    "model.fetch.ports": "{8443}",
    "model.fetch.resources": ".limits.cpu=2",
    "model.shape.hiddenSize": "2048",
    "model.shape.expertSize": "2048",
    "placement.replicas": "2",
    "router.replicas": "3",
    "router.host": "::",
    "router.trustedProxies": "{10.0.0.0/8}",
    "router.service.nodePort": "30080",
    "router.service.loadBalancerSourceRanges": "{10.0.0.0/8}",
    "attention.replicas": "3",
    "attention.tp": "2",
    "attention.pageSize": "16",
    "attention.draft": "1",
    "attention.device": "cuda",
    "attention.tablesDir": "/tables",
    "expert.replicas": "3",
    "expert.device": "cuda",
    "redis.enabled": f"false,{EXTERNAL}",
    "redis.command": "{valkey-server}",
    "externalRedis.url": "redis://b:7000",
    "externalRedis.port": "7000",
    "externalRedis.cidrs": "{10.0.0.0/8}",
    "nextRedis.url": "redis://there",
    "nextRedis.port": "7000",
    "nextRedis.cidrs": "{10.0.0.0/8}",
    "mtls.schedule": "18 3 * * *",
    "events.apiServer": "[0].ipBlock.cidr=10.0.0.1/32",
    "events.apiServerPorts": "{6443}",
    "networkPolicy.gatewayFrom": "[0].podSelector.matchLabels.a=b",
    "networkPolicy.metricsFrom": "[0].podSelector.matchLabels.a=b",
    "networkPolicy.dnsTo": "[0].podSelector.matchLabels.a=b",
    "networkPolicy.extraEgress": "[0].ports[0].port=3128",
    "tls.mode": "secret",
    "ingress.enabled": f"true,{INGRESS}",
    "ingress.hosts": "{b.example.com}",
    "ingress.paths": "{/v2}",
    "httpRoute.enabled": f"true,{ROUTE}",
    "httpRoute.parentRefs": "[0].name=other",
    "httpRoute.hostnames": "{b.example.com}",
    "httpRoute.paths": "{/v2}",
    "httpRoute.timeout": "5s",
    "inferencePool.enabled": f"true,{POOL}",
    "monitoring.monitors.interval": "30s",
    "tracing.endpoint": "http://otel:4317",
    "tracing.samplerRatio": "0",
    "tracing.collector": "[0].podSelector.matchLabels.a=b",
    "rdma.resourceName": "rdma/hca",
    "extraObjects": "[0].apiVersion=v1,extraObjects[0].kind=ConfigMap,extraObjects[0].metadata.name=more",
    "pod.image": ".tag=v7",
    "pod.command": "{run}",
    "pod.args": "{x}",
    "pod.env": "[0].name=A",
    "pod.envFrom": "[0].secretRef.name=s",
    "pod.resources": ".limits.cpu=3",
    "pod.accelerator.resourceName": "amd.com/gpu",
    "pod.accelerator.memoryGiB": "2",
    "pod.accelerator.usablePercent": "50",
    "pod.resourceClaims": "[0].name=gpu",
    "pod.tolerations": "[0].key=a",
    "pod.affinity": ".nodeAffinity.x=y",
    "pod.topologySpreadConstraints": "[0].topologyKey=rack",
    "pod.initContainers": "[0].name=i",
    "pod.extraContainers": "[0].name=c",
    "pod.extraVolumes": "[0].name=v",
    "pod.extraVolumeMounts": "[0].name=v",
    "pod.extraPorts": "[0].containerPort=1",
    "pod.podSecurityContext.seccompProfile": ".type=Unconfined",
    "pod.securityContext.seccompProfile": ".type=Unconfined",
    "pod.securityContext.capabilities": ".drop={CHOWN}",
    "pod.probes.startup": ".periodSeconds=9",
    "pod.probes.readiness": ".periodSeconds=9",
    "pod.probes.liveness": ".periodSeconds=9",
    "pod.drain.gracePeriodSeconds": "999",
    "pod.autoscaling.kind": "keda",
    "pod.autoscaling.minReplicas": "3",
    "pod.autoscaling.query": "sum(x)",
    "pod.autoscaling.prometheusAddress": "http://other:9090",
    "pod.updateStrategy": ".type=OnDelete",
}
_SCALED = "ROLE.autoscaling.enabled=true"
_KEDA = f"{_SCALED},ROLE.autoscaling.kind=keda,ROLE.autoscaling.metric=m"
# The same for the keys of `pod`, with ROLE for the role or for `pod`.
BESIDE_IN_A_ROLE = {
    "pod.accelerator.resourceName": "ROLE.accelerator.count=1",
    "pod.accelerator.memoryGiB": SHAPE,
    "pod.accelerator.usablePercent": SHAPE,
    "pod.autoscaling": _SCALED,
    "pod.autoscaling.enabled": "",
    "pod.autoscaling.query": _KEDA,
    "pod.autoscaling.queueTarget": _KEDA,
    "pod.autoscaling.prometheusAddress": _KEDA,
}


def leaves() -> list[Entry]:
    return [entry for entry in read_entries() if not entry.section]


def of_pod() -> list[Entry]:
    return [entry for entry in leaves() if entry.path[0] == "pod"]


def of_others() -> list[Entry]:
    """All that are not keys of `pod`; a role's own default of one of them is."""
    names = {entry.name for entry in of_pod()}
    return [
        entry
        for entry in leaves()
        if entry.path[0] != "pod" and not (entry.path[0] in ROLES and ".".join(("pod", *entry.path[1:])) in names)
    ]


def beside(name: str, where: dict[str, str]) -> str:
    """The `--set` argument with which the value matters; empty where it always does."""
    fitting = [start for start in where if name == start or name.startswith((f"{start}.", start))]
    return where[max(fitting, key=len)] if fitting else ""


def another(entry: Entry, name: str = "") -> str:
    """A `--set` argument that gives the value, under `name` if it is given, something else than its default."""
    name = name or entry.name
    given = OTHER.get(entry.name)
    if given is not None:
        return f"{name}{given}" if given[0] in ".[" and given != "[]" else f"{name}={given}"
    default, rule = entry.default, CONSTRAINTS.get(entry.name, {})
    choices: Any = rule.get("enum", ())
    if choices:
        return f"{name}={next(choice for choice in choices if choice not in ('', default))}"
    if isinstance(default, bool):
        return f"{name}={str(not default).lower()}"
    if isinstance(default, int | float):
        return f"{name}={int(default) + 1}"  # `--set` reads a decimal as a string
    if isinstance(default, dict):
        if entry.path[-1] in ("requests", "limits"):
            return f"{name}.cpu={'77m' if entry.path[-1] == 'requests' else '9'}"
        return f"{name}.a=b"
    if isinstance(default, str):
        return f"{name}={'30Gi' if default.endswith('Gi') or entry.path[-1] == 'shmSize' else 'other'}"
    raise ValueError(f"{entry.name}: give another value in tests/support/other_values.py")
