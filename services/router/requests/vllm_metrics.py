"""The router's request metrics under vLLM's names too, which autoscalers, dashboards and endpoint pickers know.

They are made when the page is read, from the same counters. Only routers have them: a router is what vLLM calls a
server, and if workers had them as well, sums over a cluster would count everything twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

OURS, VLLMS = "caracal:", "vllm:"
# After the prefix. What else vLLM has is not measured at routers, or does not exist here.
NAMES = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prompt_tokens",
    "generation_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
    "spec_decode_num_accepted_tokens_per_pos",
)
ENGINE = "0"  # vLLM numbers the engines of a server
# Where vLLM counts ends that are not a success in its sense either: finished_reason -> our counter.
OTHER_ENDINGS = {"abort": "caracal_gateway_cancelled", "error": "caracal:request_failure"}


class WithVllmNames:
    """A registry's families, followed by some of them under vLLM's names. `cache`: block size and number of blocks."""

    def __init__(self, registry: CollectorRegistry, model_name: str, cache: tuple[int, int]) -> None:
        self._registry, self._cache = registry, cache
        self._labels = {"model_name": model_name, "engine": ENGINE}

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in self._registry.collect()}
        yield from families.values()
        for name in NAMES:
            made = self._renamed(families[OURS + name])
            if name == "request_success":
                made.samples += [
                    self._ending(made, reason, families[counter].samples) for reason, counter in OTHER_ENDINGS.items()
                ]
            yield made
        block_size, blocks = self._cache
        config = {"block_size": str(block_size), "num_gpu_blocks": str(blocks), "engine": ENGINE}
        info = GaugeMetricFamily(VLLMS + "cache_config_info", "Sizes of all workers' caches together", labels=[*config])
        info.add_metric([*config.values()], 1)
        yield info

    def _renamed(self, family: Metric) -> Metric:
        made = Metric(VLLMS + family.name.removeprefix(OURS), family.documentation, family.type)
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = {**self._labels, **sample.labels}
            made.samples.append(sample._replace(name=VLLMS + sample.name.removeprefix(OURS), labels=labels))
        return made

    def _ending(self, success: Metric, reason: str, counted: Iterable[Sample]) -> Sample:
        value = sum(sample.value for sample in counted if sample.name.endswith("_total"))
        return Sample(f"{success.name}_total", {**self._labels, "finished_reason": reason}, value)
