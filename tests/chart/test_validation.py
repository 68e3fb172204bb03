"""The schema or a check of the chart rejects wrong values; a check's message names the value and how to fix it."""

import pytest
from support.chart_objects import Chart

from k8s.tools.helm import HelmRejected
from k8s.tools.values import CHART

pytestmark = pytest.mark.processes

TYPOS = (
    "redis.pdb.enabled=true",
    "redis.serviceAnnotations.a=b",
    "redis.minReadySeconds=1",
    "redis.updateStrategy.type=RollingUpdate",
    "redis.autoscaling.enabled=true",
    "redis.threads=1",
    "router.threads=1",
    "expert.replicaCuont=3",
    "replicas=3",
    "router.drain.timeoutSecond=1",
    "router.kvPages=4",
    "attention.probes.live.periodSeconds=1",
    "networkPolicy.enable=false",
)
WRONG_TYPES = (
    "expert.replicas=many",
    "model.dtype=int8",
    "attention.pageSize=24",
    "router.port=70000",
    "router.port=80",
    "redis.port=1023",
    "expert.replicas=99999999999",
    "attention.replicas=10001",
    "attention.autoscaling.maxReplicas=99999999999",
    "router.replicas=0",
    "attention.replicas=0",
    "expert.replicas=0",
    "test.timeoutSeconds=0",
    "router.drain.timeoutSeconds=0",
    "image.registry=registry.local/",
    "image.repository=",
    "image.repository=caracal:0.1.0",
    "nameOverride=a.b",
    "fullnameOverride=7b",
    "commonLabels.team=7",
    "pod.podAnnotations.count=7",
    "expert.podLabels.on=true",
    "monitoring.monitors.interval=often",
    "ingress.hosts={https://a.example.com}",
    "ingress.paths={v1}",
    "expert.device=gpu",
    "externalRedis.cidrs={10.0.0.0}",
    "image.digest=sha256:abc",
    "image.pullPolicy=Sometimes",
    "externalRedis.url=http://redis",
    "pod.accelerator.usablePercent=0",
    "expert.resources.limits.memory=4Gib",
    "expert.resources.limits.memory=500m",
    "model.fetch.resources.requests.memory=500m",
    "pod.resources.requests.ephemeral-storage=1m",
    "pod.resources.requests.cpu=half",
    "router.resources.request.cpu=1",
    "redis.resources.limits.memory=4 Gi",
    "pod.tmpSizeLimit=4GB",
    "logLevel=verbose",
    "router.initialReplicas=0",
    "model.hf.sizeLimit=20Gi",
    "model.fetch.connections=0",
    "model.fetch.ports={0}",
)
TO_ZERO = (
    "expert.autoscaling.enabled=true,expert.autoscaling.kind=keda,expert.autoscaling.minReplicas=0,"
    "expert.autoscaling.query=sum(x)"
)
# Values, and what the message must contain.
REJECTED = {
    "model.uri=/models/flash": "start it with builtin://, pvc://",
    "model.uri=hf://org/name": "pinned revision",
    "model.uri=hostPath://models": "a host path is absolute",
    "model.uri=builtin://nosuch": "contains only builtin://caracal-tiny",
    "model.uri=pvc://": "write pvc://CLAIM",
    "model.uri=pvc:///flash": "write pvc://CLAIM",
    "model.uri=oci://": "write oci://REPOSITORY",
    "redis.enabled=false,externalRedis.url=redis://r:6380/0,externalRedis.port=6379": "has port 6380",
    "attention.metricsPort=50051": "attention.port and attention.metricsPort are both 50051",
    "link.kind=native,link.nativePort=50051": "link.nativePort and a port of expert are both 50051",
    "router.grpcPort=8000": "router.port and router.grpcPort are both 8000",
    "router.adminPort=50051": "router.grpcPort and router.adminPort are both 50051",
    "router.service.port=50051": "router.service.port and router.grpcPort are both 50051",
    "attention.maxRunning=64,attention.maxBatchTokens=32": "a running sequence takes at least one token",
    "pod.autoscaling.enabled=true,pod.autoscaling.kind=keda,attention.autoscaling.minReplicas=0": "has no metric",
    "model.shape.layers=28": "model.shape.experts is 0",
    "redis.enabled=false": "there is no externalRedis.url",
    "externalRedis.existingSecret=mine": "to use your own Redis",
    "redis.enabled=false,externalRedis.url=redis://u:secret@r:6379/0": "contains a password",
    r"redis.enabled=false,externalRedis.url=redis+sentinel://a\,b/m": "externalRedis.sentinelPort",
    "tls.mode=secret": "nothing would present the certificate",
    "tls.mode=secret,httpRoute.enabled=true,httpRoute.parentRefs[0].name=g": "needs a host name",
    "tls.mode=secret,ingress.enabled=true,ingress.hosts={*}": "there is no certificate",
    "ingress.enabled=true": "name the hosts in ingress.hosts",
    "tls.mode=certManager,ingress.enabled=true,ingress.hosts={a.example.com}": "name the issuer",
    "httpRoute.enabled=true": "name the Gateway",
    "inferencePool.enabled=true": "name the endpoint picker's Service",
    "placement.replicas=3": "only 2 expert pods",
    "nextRedis.url=redis://u:secret@there": "nextRedis.url contains a password",
    "lostPods.remove=true,events.enabled=false": "no access to the API server",
    "expert.drain.gracePeriodSeconds=305": "killed while it drains",
    "attention.pdb.maxUnavailable=0": "could ever be drained",
    "router.coldStartSeconds=601": "above router.progressTimeoutSeconds 600",
    "expert.autoscaling.minReplicas=9": "above maxReplicas 8",
    "expert.autoscaling.enabled=true,expert.autoscaling.minReplicas=0": "use kind=keda",
    "router.autoscaling.enabled=true,router.resources.requests=null": "give router.resources.requests.cpu",
    "expert.accelerator.count=1,expert.resourceClaims[0].name=gpu": "request its GPUs twice",
    "attention.tp=2,attention.accelerator.count=4": "every rank needs one GPU of its own",
    "image.tag=latest": "cannot be rolled back",
    "router.image.tag=latest": "The image of router has the tag",
    "redis.image.tag=latest": "The image of redis has the tag",
    "redis.enabled=false,externalRedis.url=redis://r:6379/0?password=secret": "contains a password",
    "nextRedis.url=redis+sentinel://a/m?x=1&sentinel_password=s": "contains a password",
    "expert.resources.requests.memory=5Gi": "expert.resources.requests.memory is 5Gi, above the limit 4Gi",
    "redis.resources.limits.cpu=1,redis.resources.requests.cpu=1500m": "redis.resources.requests.cpu is 1500m",
    "model.fetch.resources.limits.memory=1000M": "model.fetch.resources.requests.memory is 1Gi, above the limit 1000M",
    f"{TO_ZERO},scaleGuard.enabled=true": "scaleGuard rejects every scale of experts to 0",
}


@pytest.mark.parametrize("value", TYPOS)
def test_unknown_keys_are_rejected(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRejected, match=r"additional propert.* not allowed"):
        chart.render(value)


@pytest.mark.parametrize("value", WRONG_TYPES)
def test_the_schema_rejects_wrong_values(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRejected, match="don't meet the specifications of the schema"):
        chart.render(value)


@pytest.mark.parametrize("value", ["expert=null", "expert.port=null", "pod.drain=null", "ingress=null"])
def test_no_key_may_be_null(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRejected, match=f"missing property '{value.removesuffix('=null').rpartition('.')[2]}'"):
        chart.render(value)


def test_the_builtin_model_is_the_one_in_the_image(chart: Chart) -> None:
    models = [path.name for path in (CHART.parent / "models").iterdir() if (path / "config.json").exists()]
    assert [chart.render(f"model.uri=builtin://{name}") for name in models]
    assert models == ["caracal-tiny"]


@pytest.mark.parametrize("values", REJECTED)
def test_contradictions_are_rejected_with_a_message(chart: Chart, values: str) -> None:
    with pytest.raises(HelmRejected) as rejection:
        chart.render(values)
    assert REJECTED[values] in str(rejection.value)


@pytest.mark.parametrize(
    "values",
    [
        f"image.tag=latest,image.digest=sha256:{'0' * 64}",
        "redis.enabled=false,externalRedis.existingSecret=mine,redis.image.tag=latest",
        "model.fetch.claim.size=2Pi",
        "expert.resources.requests.memory=4Gi",
        "expert.resources.requests.memory=4294967296",
        "expert.resources.requests.memory=4e9",
        "expert.resources.requests.cpu=0.5,expert.resources.limits.cpu=500m",
        f"{TO_ZERO},scaleGuard.enabled=false",
    ],
)
def test_what_is_right_is_not_rejected(chart: Chart, values: str) -> None:
    assert chart.render(values)
