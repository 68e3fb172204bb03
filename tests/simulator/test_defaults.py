"""What the simulator assumes where nothing is given is what the services and the chart have."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from support.small_simulation import DEVICE, LINK, SHAPE

from services.attention_worker.settings import FAIR_SLOWDOWN, GPU_BATCH_TOKENS, GPU_ITL_MS, AttentionSettings
from services.planner.serving import Serving
from services.router.settings import RouterSettings
from services.simulator.autoscaler import Scaling
from services.simulator.deployment import Deployment

CHART = Path(__file__).resolve().parents[2] / "k8s"


def test_a_deployment_has_the_settings_of_workers_on_gpus() -> None:
    found = Deployment(
        shape=SHAPE, device=DEVICE, expert_device=DEVICE, link=LINK, serving=Serving(), attention=1, experts=1, pages=1
    )
    assert found.max_batch_tokens == GPU_BATCH_TOKENS
    assert found.max_itl_s == GPU_ITL_MS / 1000
    assert found.slowdown == FAIR_SLOWDOWN == AttentionSettings.fair_slowdown
    for name in ("page_size", "max_running", "expert_wait_s", "prefix_cache", "kv_migration"):
        assert getattr(found, name) == getattr(AttentionSettings, name), name
    assert found.queue_timeout_s == RouterSettings.queue_timeout_s
    assert (found.replicas, found.extra) == (RouterSettings.replicas, RouterSettings.redundant_experts)


def test_an_autoscaler_has_the_charts_limits() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    scaling = Scaling(least=1, most=2, target=1.0)
    chart = values["pod"]["autoscaling"]
    assert scaling.stabilization_s == chart["scaleDownStabilizationSeconds"]
    assert scaling.queue_target == chart["queueTarget"]
    assert "queueTarget" in values["attention"]["autoscaling"]  # what a scenario gives it
    template = (CHART / "templates" / "_policies.tpl").read_text(encoding="utf-8")
    policies = re.findall(r"\{type: (\w+), value: (\d+), periodSeconds: (\d+)\}", template)
    assert policies == [("Pods", str(scaling.down_pods), f"{scaling.down_period_s:g}")]
