"""Helm values of a plan: separate pools, which are what the chart deploys, sized as planned."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from services.cli.planning.errors import BadPlan
from services.cli.planning.models import is_served
from services.cli.planning.page import verdict
from services.cli.planning.question import Found, Question
from services.cli.planning.sizing import KV_TARGET, Sizing, sizing
from services.planner.deployment import Candidate
from services.planner.memory import table_bytes
from services.planner.shape import BYTES

STORAGE = {"fp8": "float8_e4m3", "bf16": "bfloat16", "fp32": "float32"}
BUILTIN = "caracal-tiny"
HOST_BYTES = 8 << 30  # of a GPU pod beside what it stages of its weights
GIB = 1 << 30
GROWTH = 2  # most pods of an autoscaler, as a multiple of the planned ones


def check_served(q: Question, platform: str, name: str) -> None:
    """Raises BadPlan naming what of a plan the chart cannot deploy, and the nearest that it can."""
    if not is_served(q.model):
        raise BadPlan(f"--values: Caracal does not serve {name}; the nearest: flash-chat, or the path of a checkpoint")
    if platform not in ("cuda", "cpu"):
        raise BadPlan(f"--values: Caracal has no kernels for {q.gpu}; the nearest: a GPU by NVIDIA, or --gpu cpu")
    if q.weights not in STORAGE:
        raise BadPlan(f"--values: Caracal has no weights in {q.weights}; the nearest: --weights fp8")
    if q.kv != "fp8" and (q.kv == "fp32") != (q.weights == "fp32"):
        nearest = "fp32" if q.weights == "fp32" else "bf16"
        raise BadPlan(f"--values: --kv {q.kv} is not the model's dtype; the nearest: --kv {nearest}, or --kv fp8")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise BadPlan(f"--values: the model's folder is {name!r}, which no pvc:// address can have: rename it")


def values(found: Found) -> str:
    """YAML that `helm install -f` takes. Raises BadPlan where separate pools do not fit, or cannot be served."""
    check_served(found.question, found.machine.device.platform, found.machine.shape.name)
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
    m, cpu = found.machine, found.machine.device.platform == "cpu"
    size, shape = sizing(m, one, found.question.traffic), m.shape
    tree: dict[str, Any] = {
        "placement": {"replicas": m.replicas},
        "router": {
            "replicas": size.routers,
            "autoscaling": {"minReplicas": size.routers, "maxReplicas": GROWTH * size.routers},
        },
        "attention": _attention(found, one, size, cpu),
        "expert": _expert(found, size, cpu),
    }
    if shape.name == BUILTIN:  # the chart's default model
        return tree
    if one.serving.tp > 1:
        tree["link"] = {"allowPlainP2p": True}
    tree["model"] = {
        "name": shape.name,
        "uri": f"pvc://models/{shape.name}",
        "shape": {
            "layers": shape.layers,
            "experts": shape.experts,
            "hiddenSize": shape.hidden,
            "expertSize": shape.expert_ffn,
            "storage": STORAGE[m.serving.expert_dtype],
        },
    }
    if m.serving.expert_dtype == "fp32":
        tree["model"]["dtype"] = "float32"
    if m.serving.kv_dtype == "fp8":
        tree["model"]["kvDtype"] = "fp8"
    return tree


def _attention(found: Found, one: Candidate, size: Sizing, cpu: bool) -> dict[str, Any]:
    m, traffic = found.machine, found.question.traffic
    longest = min(m.shape.longest, max(4096, 8 * int(traffic.prompt + traffic.answer)))
    tables = table_bytes(m.shape, one.serving)
    section: dict[str, Any] = {
        "replicas": size.attention_workers,
        "maxRunning": size.max_running,
        "draft": one.serving.drafts,
        "kvPages": size.pages,
        "autoscaling": {
            "minReplicas": size.attention_workers,
            "maxReplicas": GROWTH * size.attention_workers,
            "target": KV_TARGET,
        },
        "resources": _resources(
            one.serving.tp * (one.memory.dense_bytes + one.memory.pages * one.memory.page_bytes), cpu, tables
        ),
    }
    if math.isfinite(itl_s := found.question.slo.itl_s):
        section["maxItlMs"] = max(1, math.floor(1e3 * itl_s))
    if tables:
        section["shmSize"] = f"{_gib(tables + GIB)}Gi"
    if not cpu:
        section |= {
            "tp": one.serving.tp,
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
            "target": max(0.001, round(size.launch_ms, 3)),
        },
        "resources": _resources(weights, cpu),
    }
    if not cpu:
        section["accelerator"] = _gpus(found, 1)
    return section


def _gpus(found: Found, count: int) -> dict[str, int]:
    """The chart counts GiB as the driver reports them, a little less than what is sold as GB."""
    return {"count": count, "memoryGiB": int(found.machine.device.memory_bytes / 1e9) - 1}


def _resources(held: float, cpu: bool, tables: float = 0.0) -> dict[str, Any]:
    """A CPU pod holds weights and pages in its own memory; a GPU pod reads them through it. Both hold `tables`."""
    if cpu:
        gib = _gib(held * 1.25 + GIB + tables)
        return {"requests": {"cpu": "500m", "memory": f"{gib}Gi"}, "limits": {"memory": f"{max(4, 2 * gib)}Gi"}}
    gib = _gib(HOST_BYTES + held / 4 + tables)
    return {"requests": {"cpu": "8", "memory": f"{gib}Gi"}, "limits": {"memory": f"{2 * gib}Gi"}}


def _gib(size: float) -> int:
    return -(-int(size) // GIB)


def _yaml(tree: dict[str, Any], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{key}:", *_yaml(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {json.dumps(value)}")
    return lines
