"""The number of expert pods needed: the chart's integers against a second computation, and the profile's table."""

import math
import re
from fractions import Fraction

import pytest
from support.chart_objects import Chart, environment, find

from k8s.tools.helm import HelmRejected
from k8s.tools.values import CHART

pytestmark = pytest.mark.processes

LAYERS, EXPERTS, HIDDEN, EXPERT_SIZE = 28, 512, 6144, 2048
BYTES_PER_WEIGHT = {"bfloat16": Fraction(2), "float8_e4m3": 1 + Fraction(4, 128 * 128)}
SHAPE = {"layers": LAYERS, "experts": EXPERTS, "hiddenSize": HIDDEN, "expertSize": EXPERT_SIZE}
FLASH = ",".join(f"model.shape.{key}={value}" for key, value in SHAPE.items())


def _pods(gib: int, storage: str, replicas: int) -> int:
    weights = 3 * HIDDEN * EXPERT_SIZE * BYTES_PER_WEIGHT[storage]
    per_pod = Fraction(gib * 2**30 * 9, 10) // weights
    return math.ceil(Fraction(LAYERS * EXPERTS * replicas, per_pod))


def _render(chart: Chart, gib: int, storage: str, replicas: int, pods: int) -> None:
    gpu = f"expert.accelerator.count=1,expert.accelerator.memoryGiB={gib}"
    chart.render(FLASH, gpu, f"model.shape.storage={storage},placement.replicas={replicas},expert.replicas={pods}")


@pytest.mark.parametrize("gib", [79, 140, 179])
@pytest.mark.parametrize("storage", BYTES_PER_WEIGHT)
@pytest.mark.parametrize("replicas", [1, 2])
def test_one_pod_too_few_is_rejected_with_the_number_needed(
    chart: Chart, gib: int, storage: str, replicas: int
) -> None:
    needed = _pods(gib, storage, replicas)
    with pytest.raises(HelmRejected, match=rf"need at least {needed} pods of 1 x {gib} GiB"):
        _render(chart, gib, storage, replicas, needed - 1)
    _render(chart, gib, storage, replicas, needed)


def test_the_table_in_the_profile_is_right() -> None:
    text = (CHART / "profiles/gpu-multinode.yaml").read_text()
    rows = re.findall(r"^# +\w+ +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [79, 140, 179]
    for gib, *counts in ([int(cell) for cell in row] for row in rows):
        cases = [(storage, replicas) for storage in BYTES_PER_WEIGHT for replicas in (1, 2)]
        assert counts == [_pods(gib, storage, replicas) for storage, replicas in cases]


def test_two_gpus_in_a_pod_double_its_capacity(chart: Chart) -> None:
    with pytest.raises(HelmRejected, match="need at least 4 pods of 2 x 140 GiB"):
        chart.render(FLASH, "expert.accelerator.count=2,expert.accelerator.memoryGiB=140,expert.replicas=3")


def test_an_autoscaler_may_not_go_below_the_pods_needed(chart: Chart) -> None:
    gpu = "expert.accelerator.count=1,expert.accelerator.memoryGiB=140"
    with pytest.raises(HelmRejected, match=r"expert\.autoscaling\.minReplicas is 2"):
        chart.render(FLASH, gpu, "expert.replicas=9,expert.autoscaling.enabled=true,expert.autoscaling.minReplicas=2")


def test_a_given_capacity_decides_the_pods_needed(chart: Chart) -> None:
    tiny = "model.shape.layers=3,model.shape.experts=16"
    with pytest.raises(HelmRejected, match=r"need at least 3 pods of 16 experts \(expert\.capacity\)"):
        chart.render(tiny, "expert.capacity=16,expert.replicas=2")
    chart.render(tiny, "expert.capacity=16,expert.replicas=3")
    gpu = "expert.accelerator.count=1,expert.accelerator.memoryGiB=140"
    with pytest.raises(HelmRejected, match="need at least 15 pods of 1000 experts"):
        chart.render(FLASH, gpu, "expert.capacity=1000,expert.replicas=14")


def test_a_capacity_beyond_the_accelerators_is_rejected(chart: Chart) -> None:
    gpu = "expert.accelerator.count=1,expert.accelerator.memoryGiB=140,expert.replicas=9"
    with pytest.raises(HelmRejected, match=r"expert\.capacity is 1793, but only 1792 experts fit"):
        chart.render(FLASH, gpu, "expert.capacity=1793")
    chart.render(FLASH, gpu, "expert.capacity=1792")


def test_pods_get_their_capacity_as_a_variable(chart: Chart) -> None:
    def capacity(*sets: str) -> str | None:
        container = find(chart.render(*sets), "StatefulSet", "caracal-expert")["spec"]["template"]["spec"][
            "containers"
        ][0]
        return environment(container).get("CARACAL_CAPACITY", {}).get("value")

    gpu = "expert.accelerator.count=1,expert.accelerator.memoryGiB=140,expert.replicas=8"
    assert capacity() is None
    assert capacity(FLASH, gpu) == "1792"
    assert capacity("expert.capacity=40") == "40"
