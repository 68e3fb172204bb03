"""`python -m support.metrics_page`: docs/metrics.md, from the collectors of the three roles and of training."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prometheus_client import CollectorRegistry
from support.live_metrics import registries

from services.router.requests.vllm_metrics import NAMES, WithVllmNames
from training.stability.metrics import TrainingMetrics

INTRO = """# Metrics

Made by `make metrics` from the collectors; a test compares it with the code. Counters are queried with the suffix
`_total`, histograms with `_bucket`, `_sum` and `_count`, infos with `_info`. Which of them to watch:
[operations.md](operations.md#what-to-watch).
"""
VLLM = """
Routers have some of these under vLLM's names, too, with the labels `model_name` and `engine`, which is always 0. In
`vllm:request_success` the `finished_reason` may also be `abort`, as `caracal_gateway_cancelled` counts it, or `error`,
as `caracal:request_failure` does.

| metric | type | is |
|---|---|---|
"""
TITLES = {"router": "Router", "attention": "Attention worker", "expert": "Expert worker", "training": "Training"}


def _training() -> CollectorRegistry:
    return TrainingMetrics(CollectorRegistry()).registry


def markdown() -> str:
    """Returns the text of docs/metrics.md."""
    parts = [INTRO]
    with tempfile.TemporaryDirectory() as folder:
        for role, registry in (registries(Path(folder)) | {"training": _training()}).items():
            parts.append(f"\n## {TITLES[role]}\n\n| metric | type | says |\n|---|---|---|\n")
            families = sorted(registry.collect(), key=lambda family: family.name)
            parts += [f"| `{family.name}` | {family.type} | {family.documentation} |\n" for family in families]
            if role == "router":
                page = {family.name: family for family in WithVllmNames(registry, "tiny", (64, 1)).collect()}
                cache = page["vllm:cache_config_info"]
                vllms = [f"| `vllm:{name}` | {page[f'vllm:{name}'].type} | `caracal:{name}` |\n" for name in NAMES]
                parts += [VLLM, *vllms, f"| `{cache.name}` | {cache.type} | {cache.documentation} |\n"]
    return "".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
