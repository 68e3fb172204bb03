"""Writes k8s/values.schema.json from k8s/values.yaml: closed sections, types from the defaults, prose as descriptions.

What defaults cannot say (choices, ranges, forms) stands in REFINED. `python -m k8s.tools` writes it.
"""

import json

from k8s.tools.values import ROLES, Entry, Tree, read_entries

_PORT: Tree = {"type": "integer", "minimum": 1, "maximum": 65535}
_COUNT: Tree = {"type": "integer", "minimum": 0}
_OPEN: Tree = {"type": "object"}


def _one_of(*choices: str) -> Tree:
    return {"type": "string", "enum": list(choices)}


REFINED: dict[str, Tree] = {
    "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "model.dtype": _one_of("", "bfloat16", "float32"),
    "model.name": {"type": "string", "minLength": 1},
    "model.shape.storage": _one_of("bfloat16", "float32", "float8_e4m3"),
    "link.kind": _one_of("grpc", "nccl"),
    "link.dispatchDtype": _one_of("", "fp8"),
    "placement.copies": {"type": "integer", "minimum": 1},
    "pod.image": {"$ref": "#/properties/image"},
    "pod.accelerator.usablePercent": {"type": "integer", "minimum": 1, "maximum": 100},
    "pod.podSecurityContext": _OPEN,
    "pod.securityContext": _OPEN,
    "pod.pdb.maxUnavailable": {"oneOf": [_COUNT, {"type": "string", "pattern": "^[0-9]{1,2}%$"}]},
    "pod.autoscaling.kind": _one_of("hpa", "keda"),
    "pod.autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "pod.autoscaling.target": {"type": "number", "exclusiveMinimum": 0},
    "router.port": _PORT,
    "router.grpcPort": _PORT,
    "router.service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
    "router.service.port": _PORT,
    "router.service.nodePort": {"oneOf": [{"const": 0}, _PORT]},
    "attention.port": _PORT,
    "attention.metricsPort": _PORT,
    "attention.pageSize": {"type": "integer", "minimum": 0, "multipleOf": 16},
    "expert.port": _PORT,
    "expert.metricsPort": _PORT,
    "redis.port": _PORT,
    "externalRedis.port": _PORT,
    "externalRedis.url": {"type": "string", "pattern": "^(rediss?://.+)?$"},
    "tls.mode": _one_of("none", "secret", "certManager"),
    "tls.issuerRef.kind": _one_of("Issuer", "ClusterIssuer"),
    "ingress.pathType": _one_of("Prefix", "Exact", "ImplementationSpecific"),
    "httpRoute.timeout": {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"},
    "inferencePool.endpointPicker.port": _PORT,
    "inferencePool.endpointPicker.failureMode": _one_of("FailOpen", "FailClose"),
    "monitoring.rules.errorPercent": {"type": "number", "minimum": 0, "maximum": 100},
    "monitoring.rules.kvCachePercent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    "test.maxTokens": {"type": "integer", "minimum": 1},
}


def _plain(default: object) -> Tree:
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int):
        return dict(_COUNT)
    if isinstance(default, float):
        return {"type": "number", "exclusiveMinimum": 0}
    if isinstance(default, str):
        return {"type": "string"}
    return {"type": "array"} if isinstance(default, list) else dict(_OPEN)


def _restates_pod(entry: Entry, names: set[str]) -> bool:
    return entry.path[0] in ROLES and len(entry.path) > 1 and ".".join(("pod", *entry.path[1:])) in names


def _property(entry: Entry) -> Tree:
    if entry.name in REFINED:
        made = dict(REFINED[entry.name])
    elif entry.section:
        made = {"type": "object", "properties": {}, "additionalProperties": False}
    else:
        made = _plain(entry.default)
    return made | ({"description": entry.prose} if entry.prose and "$ref" not in made else {})


def build() -> Tree:
    """The schema of the whole file. Roles take every key of `pod` by reference."""
    entries = read_entries()
    names = {entry.name for entry in entries}
    root: Tree = {"properties": {}}
    for entry in entries:
        holder = root
        for key in entry.path[:-1]:
            properties = holder.get("properties")
            holder = properties.get(key, {}) if isinstance(properties, dict) else {}
        properties = holder.get("properties")
        # A free map (a security context, resources) has no properties of ours; a role's override has pod's.
        if isinstance(properties, dict) and not _restates_pod(entry, names):
            properties[entry.path[-1]] = _property(entry)
    tops = root["properties"]
    assert isinstance(tops, dict)
    for role in ROLES:
        tops[role]["properties"] |= {
            key: {"$ref": f"#/properties/pod/properties/{key}"} for key in tops["pod"]["properties"]
        }
    # Helm adds `global` when the chart is a subchart.
    tops["global"] = {"type": "object", "description": "Given by a parent chart; not read."}
    head: Tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the Caracal chart"}
    return head | {"type": "object", "additionalProperties": False, "properties": tops}


def render() -> str:
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
