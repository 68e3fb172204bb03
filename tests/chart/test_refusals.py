"""Wrong values are refused by the schema or in words that name the value and the way out."""

import pytest
from chart_objects import Chart

from k8s.tools.helm import HelmRefused

TYPOS = (
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
    "image.digest=sha256:abc",
    "image.pullPolicy=Sometimes",
    "externalRedis.url=http://redis",
    "pod.accelerator.usablePercent=0",
)
# values -> words the message must have
REFUSED = {
    "model.uri=/models/flash": "start it with builtin://, pvc://",
    "model.uri=hf://org/name": "pinned revision",
    "model.uri=hostPath://models": "a host path is absolute",
    "model.shape.layers=28": "model.shape.experts is 0",
    "redis.enabled=false": "there is no externalRedis.url",
    "externalRedis.existingSecret=mine": "which one?",
    "redis.enabled=false,externalRedis.url=redis://u:secret@r:6379/0": "holds a password",
    "tls.mode=secret": "nothing would present the certificate",
    "tls.mode=secret,ingress.enabled=true": "needs a host name",
    "tls.mode=certManager,ingress.enabled=true,ingress.hosts={a.example.com}": "name who signs",
    "httpRoute.enabled=true": "name the Gateway",
    "inferencePool.enabled=true": "name the endpoint picker's Service",
    "placement.copies=3": "only 2 expert pods",
    "expert.drain.gracePeriodSeconds=305": "killed while it hands over",
    "attention.pdb.maxUnavailable=0": "could ever be drained",
    "expert.autoscaling.minReplicas=9": "above maxReplicas 8",
    "expert.autoscaling.enabled=true,expert.autoscaling.minReplicas=0": "use kind=keda",
    "router.autoscaling.enabled=true,router.resources.requests=null": "give router.resources.requests.cpu",
    "expert.accelerator.count=1,expert.resourceClaims[0].name=gpu": "ask for its GPUs twice",
    "attention.tp=2,attention.accelerator.count=4": "every rank has one GPU of its own",
    "image.tag=latest": "cannot be rolled back",
    "router.image.tag=latest": "cannot be rolled back",
}


@pytest.mark.parametrize("value", TYPOS)
def test_unknown_keys_are_refused(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRefused, match=r"additional propert.* not allowed"):
        chart.render(value)


@pytest.mark.parametrize("value", WRONG_TYPES)
def test_wrong_values_are_refused_by_the_schema(chart: Chart, value: str) -> None:
    with pytest.raises(HelmRefused, match="don't meet the specifications of the schema"):
        chart.render(value)


@pytest.mark.parametrize("values", REFUSED)
def test_contradictions_are_refused_in_words(chart: Chart, values: str) -> None:
    with pytest.raises(HelmRefused) as refusal:
        chart.render(values)
    assert REFUSED[values] in str(refusal.value)
