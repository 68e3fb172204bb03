"""Constraints of the chart's values beyond the type of their defaults: choices, patterns, bounds of every integer."""

from k8s.tools.values import Tree

# Much larger numbers of replicas overflow, or exhaust the control plane.
MAX_PODS = 10_000
DAY_S = 86_400
_LABEL = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_HOST = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_PART = "[a-z0-9]+([._-]+[a-z0-9]+)*"
_QUANTITY = r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?"
_RESOURCE = "[A-Za-z0-9.-]+/[A-Za-z0-9._-]+"
_OPEN: Tree = {"type": "object"}
# Kubernetes' own form of quantities: decimal and binary suffixes, thousandths, exponents.
_AMOUNT = r"^[0-9]+(\.[0-9]*)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?$"
# Bytes have no thousandths: `500m` of memory is half a byte, and meant to be 500Mi.
_BYTES = _AMOUNT.replace("(m|", "(")


def _amount(pattern: str) -> Tree:
    return {"oneOf": [{"type": "string", "pattern": pattern}, {"type": "number", "minimum": 0}]}


_AMOUNTS: Tree = {
    "type": "object",
    "patternProperties": {"^(memory|ephemeral-storage|hugepages-.+)$": _amount(_BYTES)},
    "additionalProperties": _amount(_AMOUNT),
}
_RESOURCES: Tree = {
    "type": "object",
    "additionalProperties": False,
    "patternProperties": {"^(requests|limits)$": _AMOUNTS, "^claims$": {"type": "array"}},
}
_STRINGS: Tree = {"type": "object", "additionalProperties": {"type": "string"}}
_LABELS: Tree = {"type": "object", "additionalProperties": {"type": "string", "pattern": _LABEL, "maxLength": 63}}


def _between(least: int, most: int) -> Tree:
    return {"type": "integer", "minimum": least, "maximum": most}


def _one_of(*choices: str) -> Tree:
    return {"type": "string", "enum": list(choices)}


def _pattern(pattern: str) -> Tree:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _or_empty(pattern: str) -> Tree:
    return _pattern(f"({pattern})?")


def _list_of(item: Tree) -> Tree:
    return {"type": "array", "items": item}


_PORT = _between(1, 65535)
# Pods run without root, and their runtime may not let them listen on ports below 1024.
_POD_PORT = _between(1024, 65535)
_PODS = _between(1, MAX_PODS)
_OWNED_PODS: Tree = {**_PODS, "type": ["integer", "null"]}
# At most 40 characters, so that names with the longest suffix stay valid.
_NAME = _or_empty("[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_CIDRS = _list_of(_pattern("[0-9A-Fa-f.:]+/[0-9]{1,3}"))
_PATHS = {**_list_of(_pattern("/.*")), "minItems": 1}

# Keys of `pod` that a role does nothing with, and may not have: Redis is one pod without an autoscaler, routers compute
# nothing.
UNREAD = {
    "router": {"threads"},
    "redis": {"autoscaling", "minReadySeconds", "pdb", "serviceAnnotations", "threads", "updateStrategy"},
}
CONSTRAINTS: dict[str, Tree] = {
    "nameOverride": _NAME,
    "fullnameOverride": _NAME,
    "commonLabels": _LABELS,
    "commonAnnotations": _STRINGS,
    "image.registry": _or_empty(f"[A-Za-z0-9.-]+(:[0-9]+)?(/{_PART})*"),
    "image.repository": _pattern(f"([A-Za-z0-9.-]+(:[0-9]+)?/)?{_PART}(/{_PART})*"),
    "image.tag": _or_empty("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"),
    "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "image.digest": _or_empty("sha256:[0-9a-f]{64}"),
    "logLevel": _one_of("", "DEBUG", "INFO", "WARNING", "ERROR"),
    "model.dtype": _one_of("", "bfloat16", "float32"),
    "model.kvDtype": _one_of("", "fp8"),
    "model.generationConfig": _one_of("auto", "none"),
    "model.name": {"type": "string", "minLength": 1},
    "model.fetch.mode": _one_of("pods", "claim", "slices"),
    "model.fetch.volume": _OPEN,
    "model.fetch.sizeLimit": _pattern(_QUANTITY),
    "model.fetch.claim.existing": _or_empty(_HOST),
    "model.fetch.claim.accessMode": _one_of("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"),
    "model.fetch.claim.size": _pattern(_QUANTITY),
    "model.fetch.claim.keep": _between(0, 100),
    "model.fetch.connections": _between(1, 256),
    "model.fetch.verify": _or_empty("[-._:A-Za-z0-9]{1,63}"),
    "model.fetch.endpoint": _or_empty("https?://[^ ]+"),
    "model.fetch.proxy": _or_empty("[a-z0-9]+://[^ ]+"),
    "model.fetch.ports": _list_of(_PORT),
    "model.fetch.resources": _RESOURCES,
    "model.shape.layers": _between(0, 1000),
    "model.shape.experts": _between(0, 65536),
    "model.shape.hiddenSize": _between(0, 1 << 20),
    "model.shape.expertSize": _between(0, 1 << 20),
    "model.shape.storage": _one_of("bfloat16", "float32", "float8_e4m3"),
    "link.kind": _one_of("grpc", "nccl", "native", ""),
    "link.nativePort": _POD_PORT,
    "link.dispatchDtype": _one_of("", "fp8"),
    "placement.replicas": {**_between(1, 64), "type": ["integer", "null"]},
    "placement.redundantExperts": _between(0, 4096),
    "placement.rebalanceGbPerMinute": {"type": "number", "minimum": 0, "maximum": 100_000},
    "pod.image": {"$ref": "#/properties/image"},
    "pod.accelerator.resourceName": _pattern(_RESOURCE),
    "pod.accelerator.count": _between(0, 64),
    "pod.accelerator.memoryGiB": _between(0, 10_000),
    "pod.accelerator.usablePercent": _between(1, 100),
    "pod.resources": _RESOURCES,
    "pod.tmpSizeLimit": _pattern(_QUANTITY),
    "pod.shmSize": _or_empty(_QUANTITY),
    "pod.threads": _between(0, 1024),
    "pod.podLabels": _LABELS,
    "pod.podAnnotations": _STRINGS,
    "pod.nodeSelector": _LABELS,
    "pod.nodeLossSeconds": _between(0, DAY_S),
    "pod.podSecurityContext": _OPEN,
    "pod.securityContext": _OPEN,
    "pod.probes.startupTimeoutSeconds": _between(1, DAY_S),
    "pod.drain.preStopSeconds": _between(0, 3600),
    "pod.drain.timeoutSeconds": _between(1, DAY_S),
    "pod.drain.gracePeriodSeconds": _between(0, 2 * DAY_S),
    "pod.pdb.maxUnavailable": {"oneOf": [_between(0, MAX_PODS), _pattern("[0-9]{1,2}%")]},
    "pod.autoscaling.kind": _one_of("hpa", "keda"),
    "pod.autoscaling.minReplicas": _between(0, MAX_PODS),
    "pod.autoscaling.maxReplicas": _PODS,
    "pod.autoscaling.target": {"type": "number", "exclusiveMinimum": 0, "maximum": 1_000_000},
    "pod.autoscaling.queueTarget": _between(0, 1_000_000),
    "pod.autoscaling.prometheusAddress": _pattern("https?://.+"),
    # The maximum of a HorizontalPodAutoscaler.
    "pod.autoscaling.scaleDownStabilizationSeconds": _between(0, 3600),
    "pod.minReadySeconds": _between(0, 3600),
    "pod.serviceAnnotations": _STRINGS,
    "router.replicas": _OWNED_PODS,
    "router.initialReplicas": _PODS,
    "router.port": _POD_PORT,
    "router.grpcPort": _POD_PORT,
    "router.adminPort": _POD_PORT,
    "router.progressTimeoutSeconds": _between(1, DAY_S),
    "router.coldStartSeconds": _between(0, 3600),
    "router.responses.ttlSeconds": _between(0, 365 * DAY_S),
    "router.responses.memoryMb": _between(1, 1_000_000),
    "router.service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
    "router.service.port": _PORT,
    "router.service.nodePort": _between(0, 65535),
    "router.service.loadBalancerSourceRanges": _CIDRS,
    "router.trustedProxies": _list_of(_pattern("[0-9A-Fa-f.:]+(/[0-9]{1,3})?")),
    "attention.replicas": _OWNED_PODS,
    "attention.initialReplicas": _PODS,
    "attention.port": _POD_PORT,
    "attention.metricsPort": _POD_PORT,
    "attention.device": _or_empty("cpu|cuda(:[0-9]{1,2})?"),
    "attention.tp": _between(0, 64),
    "attention.kvPages": _between(0, 100_000_000),
    "attention.pageSize": {**_between(0, 4096), "multipleOf": 16},
    "attention.maxBatchTokens": _between(0, 8192),
    "attention.maxItlMs": _between(0, 3_600_000),
    "attention.draft": _between(-1, 3),
    "attention.maxRunning": _between(0, 1 << 16),
    "attention.maxModelLen": _between(0, 1 << 24),
    "attention.tablesDir": _or_empty("/[^:]*"),
    "attention.expertWaitSeconds": _between(0, 3600),
    "expert.replicas": _OWNED_PODS,
    "expert.initialReplicas": _PODS,
    "expert.port": _POD_PORT,
    "expert.metricsPort": _POD_PORT,
    "expert.device": _or_empty("cpu|cuda(:[0-9]{1,2})?"),
    "expert.capacity": _between(0, 10_000_000),
    "expert.maxSessions": _between(0, 100_000),
    "redis.port": _POD_PORT,
    "redis.previousSecretKey": _or_empty("[-._A-Za-z0-9]{1,253}"),
    "externalRedis.port": _between(0, 65535),
    "externalRedis.sentinelPort": _between(0, 65535),
    "router.apiKeys.existingSecret": _or_empty("[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"),
    "router.apiKeys.secretKey": _pattern("[-._A-Za-z0-9]{1,253}"),
    "router.apiKeys.metricsSecretKey": _or_empty("[-._A-Za-z0-9]{1,253}"),
    "router.apiKeys.testSecretKey": _or_empty("[-._A-Za-z0-9]{1,253}"),
    "caBundle.configMap": _or_empty("[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"),
    "caBundle.secret": _or_empty("[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"),
    "caBundle.key": _pattern("[-._A-Za-z0-9]{1,253}"),
    "mtls.mode": _one_of("job", "certManager", "existing", "none"),
    "mtls.certificateDays": _between(2, 365),
    "mtls.schedule": _pattern("[-*/,0-9A-Za-z]+( [-*/,0-9A-Za-z]+){4}"),
    "mtls.serviceAccountName": _or_empty("[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"),
    "mtls.issuerRef.kind": _one_of("Issuer", "ClusterIssuer"),
    "clusterKey.existingSecret": _or_empty("[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"),
    "clusterKey.secretKey": _pattern("[-._A-Za-z0-9]{1,253}"),
    "externalRedis.url": _or_empty(r"rediss?(\+sentinel)?://.+"),
    "externalRedis.cidrs": _CIDRS,
    "nextRedis.url": _or_empty(r"rediss?(\+sentinel)?://.+"),
    "nextRedis.port": _between(0, 65535),
    "nextRedis.sentinelPort": _between(0, 65535),
    "nextRedis.cidrs": _CIDRS,
    "events.apiServerPorts": {**_list_of(_PORT), "minItems": 1},
    "serviceAccount.annotations": _STRINGS,
    "tls.mode": _one_of("none", "secret", "certManager"),
    "tls.issuerRef.kind": _one_of("Issuer", "ClusterIssuer"),
    "ingress.hosts": _list_of(_pattern(rf"(\*|(\*\.)?{_HOST})")),
    "ingress.paths": _PATHS,
    "ingress.pathType": _one_of("Prefix", "Exact", "ImplementationSpecific"),
    "ingress.annotations": _STRINGS,
    "httpRoute.hostnames": _list_of(_pattern(rf"(\*\.)?{_HOST}")),
    "httpRoute.paths": _PATHS,
    "httpRoute.timeout": _pattern("([0-9]{1,5}(h|m|s|ms)){1,4}"),
    "inferencePool.endpointPicker.port": _PORT,
    "inferencePool.endpointPicker.failureMode": _one_of("FailOpen", "FailClose"),
    "monitoring.monitors.labels": _LABELS,
    "monitoring.monitors.interval": _pattern("([0-9]{1,5}(ms|s|m|h)){1,4}"),
    "monitoring.rules.labels": _LABELS,
    "monitoring.rules.errorPercent": {"type": "number", "minimum": 0, "maximum": 100},
    "monitoring.rules.waitingRequests": _between(0, 1_000_000),
    "monitoring.rules.kvCachePercent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    "monitoring.dashboards.labels": _LABELS,
    "monitoring.dashboards.annotations": _STRINGS,
    "tracing.endpoint": _or_empty("https?://[^/]+(/.*)?"),
    "tracing.protocol": _one_of("grpc", "http/protobuf"),
    "tracing.samplerRatio": {"type": "number", "minimum": 0, "maximum": 1},
    "tracing.resourceAttributes": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[^,=]+$"}},
    "rdma.resourceName": _or_empty(_RESOURCE),
    "test.maxTokens": _between(1, 4096),
    "test.timeoutSeconds": _between(1, 3600),
}
