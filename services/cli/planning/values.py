"""Helm values of a plan: separate pools, which are what the chart deploys, sized as planned."""

from __future__ import annotations

import json
from typing import Any

from services.cli.planning.errors import BadPlan
from services.cli.planning.page import verdict
from services.cli.planning.question import Found
from services.cli.planning.sizing import KV_TARGET, Sizing, sizing
from services.planner.deployment import Candidate
from services.planner.shape import BYTES

STORAGE = {"fp8": "float8_e4m3", "bf16": "bfloat16", "fp32": "float32"}
BUILTIN = "caracal-tiny"
HOST_BYTES = 8 << 30  # of a GPU pod beside what it stages of its weights
GROWTH = 2  # most pods of an autoscaler, as a multiple of the planned ones


def values(found: Found) -> str:
    """YAML that `helm install -f` takes. Raises BadPlan where separate pools do not fit."""
    one = found.answer.chosen.get("separate")
    if one is None:
        raise BadPlan(
            "the chart deploys separate pools, and none fit here; the nearest that is feasible: more --gpus, "
            "or another SLO"
        )
    tree = tree_of(found, one)
    lines = [f"# {line}" for line in verdict(found).splitlines()]
    if found.answer.winner.way != "separate":
        lines.append(f"# The chart deploys separate pools: these are the best of them, not {found.answer.winner.way}.")
    if "link" in tree:
        lines.append(
            "# Ranks of one attention pod exchange over NCCL, which nothing can encrypt: allowPlainP2p permits that."
        )
    return "\n".join([*lines, *_yaml(tree, 0), ""])


def tree_of(found: Found, one: Candidate) -> dict[str, Any]:
    size, m, cpu = (
        sizing(found.machine, one, found.question.traffic, found.question.slo),
        found.machine,
        found.question.gpu == "cpu",
    )
    shape = m.shape
    tree: dict[str, Any] = {
        "placement": {"replicas": m.replicas, "redundantExperts": size.redundant_experts},
        "router": {
            "replicas": size.routers,
            "autoscaling": {"minReplicas": size.routers, "maxReplicas": GROWTH * size.routers},
        },
        "attention": _attention(found, one, size, cpu),
        "expert": _expert(found, size, cpu),
    }
    if shape.name == BUILTIN:  # the chart's default model
        return tree
    if one.serving.tp > 1 and not cpu:
        tree["link"] = {"allowPlainP2p": True}
    name = shape.name
    tree["model"] = {
        "name": name,
        "uri": f"pvc://models/{name}",
        "shape": {
            "layers": shape.layers,
            "experts": shape.experts,
            "hiddenSize": shape.hidden,
            "expertSize": shape.expert_ffn,
            "storage": STORAGE.get(m.serving.expert_dtype, "bfloat16"),
        },
    }
    if m.serving.kv_dtype == "fp8":
        tree["model"]["kvDtype"] = "fp8"
    return tree


def _attention(found: Found, one: Candidate, size: Sizing, cpu: bool) -> dict[str, Any]:
    m, traffic = found.machine, found.question.traffic
    longest = min(m.shape.longest, max(4096, 8 * int(traffic.prompt + traffic.answer)))
    section: dict[str, Any] = {
        "replicas": size.attention_workers,
        "maxRunning": size.max_running,
        "draft": one.serving.drafts,
        "autoscaling": {
            "minReplicas": size.attention_workers,
            "maxReplicas": GROWTH * size.attention_workers,
            "target": KV_TARGET,
        },
        "resources": _resources(one.memory.dense_bytes + one.memory.pages * one.memory.page_bytes, cpu),
    }
    if not cpu:
        section |= {
            "tp": one.serving.tp,
            "kvPages": size.pages,
            "maxModelLen": longest,
            "accelerator": _gpus(found, one.serving.tp),
        }
    return section


def _expert(found: Found, size: Sizing, cpu: bool) -> dict[str, Any]:
    m = found.machine
    weights = size.experts_per_worker * m.shape.expert_params * BYTES[m.serving.expert_dtype]
    section: dict[str, Any] = {
        "replicas": size.expert_workers,
        "autoscaling": {
            "minReplicas": size.expert_workers,
            "maxReplicas": GROWTH * size.expert_workers,
            "target": max(1, round(size.launch_ms)),
        },
        "resources": _resources(weights, cpu),
    }
    if not cpu:
        section["accelerator"] = _gpus(found, 1)
    return section


def _gpus(found: Found, count: int) -> dict[str, int]:
    """The chart counts GiB as the driver reports them, a little less than what is sold as GB."""
    return {"count": count, "memoryGiB": int(found.machine.device.memory_bytes / 1e9) - 1}


def _resources(held: float, cpu: bool) -> dict[str, Any]:
    """A CPU pod holds weights and pages in its own memory; a GPU pod only reads them through it."""
    if cpu:
        gib = -(-int(held * 1.25 + (1 << 30)) // (1 << 30))
        return {"requests": {"cpu": "500m", "memory": f"{gib}Gi"}, "limits": {"memory": f"{max(4, 2 * gib)}Gi"}}
    gib = -(-int(HOST_BYTES + held / 4) // (1 << 30))
    return {"requests": {"cpu": "8", "memory": f"{gib}Gi"}, "limits": {"memory": f"{2 * gib}Gi"}}


def _yaml(tree: dict[str, Any], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{key}:", *_yaml(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {json.dumps(value)}")
    return lines
