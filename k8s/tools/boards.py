"""The panels of each dashboard. A test compares every metric name here with the names that the services export."""

from collections.abc import Mapping
from dataclasses import dataclass

_HERE = 'namespace="$namespace"'
# Routers and attention workers export some metrics under the same name, vLLM's; only the routers' have a model_name.
_ROUTERS = f'{_HERE},model_name!=""'
_ATTENTION = f'{_HERE},model_name=""'


@dataclass(frozen=True)
class Panel:
    """One panel: its Grafana unit, and its PromQL queries by legend."""

    title: str
    unit: str
    queries: Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """One dashboard; `name` is its file and its fixed uid."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _quantiles(histogram: str, *quantiles: float) -> dict[str, str]:
    rate = f"sum by (le) (rate({histogram}_bucket{{{_HERE}}}[$__rate_interval]))"
    return {f"p{quantile * 100:g}": f"histogram_quantile({quantile}, {rate})" for quantile in quantiles}


def _rate(counter: str, by: str = "", where: str = _HERE) -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({counter}{{{where}}}[$__rate_interval]))"


def _sum(gauge: str, by: str = "pod", where: str = _HERE) -> str:
    return f"sum by ({by}) ({gauge}{{{where}}})"


def _per(counter: str, each: str, by: str = "pod") -> str:
    """The increase of one counter for each increment of another."""
    return f"{_rate(counter, by)} / {_rate(each, by)}"


def _by_layer(counter: str) -> str:
    """The increase of a counter in one engine step, by layer; a step runs every layer once."""
    return f"{_rate(counter, 'layer')} / scalar({_rate('caracal_engine_steps_total')})"


REQUESTS = Board(
    "requests",
    "requests",
    (
        Panel("Time to first token", "s", _quantiles("caracal:time_to_first_token_seconds", 0.5, 0.95, 0.99)),
        Panel("Time between tokens", "s", _quantiles("caracal:inter_token_latency_seconds", 0.5, 0.95, 0.99)),
        Panel("Whole request", "s", _quantiles("caracal:e2e_request_latency_seconds", 0.5, 0.95, 0.99)),
        Panel(
            "Tokens per second",
            "short",
            {
                "generated": _rate("caracal:generation_tokens_total", where=_ROUTERS),
                "prompt": _rate("caracal:prompt_tokens_total", where=_ROUTERS),
            },
        ),
        Panel(
            "Finished, by reason",
            "reqps",
            {"{{finished_reason}}": _rate("caracal:request_success_total", "finished_reason")},
        ),
        Panel("Failed, by code", "reqps", {"{{code}}": _rate("caracal:request_failure_total", "code")}),
        Panel(
            "HTTP responses, by status", "reqps", {"{{status}}": _rate("caracal_gateway_http_requests_total", "status")}
        ),
        Panel(
            "Event loop lag, 99th percentile",
            "s",
            {
                "{{pod}}": "histogram_quantile(0.99, sum by (pod, le) (rate(caracal_event_loop_lag_seconds_bucket"
                f"{{{_HERE}}}[$__rate_interval])))"
            },
        ),
        Panel(
            "Failovers and cancelled requests",
            "ops",
            {
                "failovers": _rate("caracal_gateway_failovers_total"),
                "cancelled by clients": _rate("caracal_gateway_cancelled_total"),
            },
        ),
    ),
)

ENGINE = Board(
    "engine",
    "engine",
    (
        Panel(
            "Sequences",
            "short",
            {
                "{{pod}} in the batch": _sum("caracal:num_requests_running", where=_ATTENTION),
                "{{pod}} waiting": _sum("caracal:num_requests_waiting", where=_ATTENTION),
            },
        ),
        Panel("KV pages in use", "percentunit", {"{{pod}}": _sum("caracal:kv_cache_usage_perc", where=_ATTENTION)}),
        Panel("Preemptions", "ops", {"{{pod}}": _rate("caracal:num_preemptions_total", "pod")}),
        Panel(
            "Steps per second",
            "ops",
            {
                "{{pod}}": _rate("caracal_engine_steps_total", "pod"),
                "{{pod}} failed": _rate("caracal_engine_failed_steps_total", "pod"),
            },
        ),
        Panel(
            "Tokens of one step",
            "short",
            {"{{pod}}": _per("caracal_engine_model_tokens_total", "caracal_engine_steps_total")},
        ),
        Panel("Exposed wait of one step, by layer", "s", {"{{layer}}": _by_layer("caracal_moe_exposed_seconds_total")}),
        Panel(
            "Round trip of one step, by layer", "s", {"{{layer}}": _by_layer("caracal_moe_round_trip_seconds_total")}
        ),
        Panel(
            "Top-k choices that are zero experts, by layer",
            "percentunit",
            {
                "{{layer}}": _rate("caracal_moe_choices_total", "layer", f'{_HERE},kind="zero"')
                + f" / {_rate('caracal_moe_choices_total', 'layer')}"
            },
        ),
        Panel(
            "Hidden rows on the wire",
            "Bps",
            {
                "{{direction}}": _rate("caracal_dispatch_bytes_total", "direction"),
                "received, if no choice were a zero expert": _rate("caracal_dispatch_bytes_if_all_ffn_total"),
            },
        ),
        Panel(
            "Retried dispatches",
            "ops",
            {
                "{{pod}} retries": _rate("caracal_dispatch_retries_total", "pod"),
                "{{pod}} rejected for a stale epoch": _rate("caracal_dispatch_stale_epoch_rejections_total", "pod"),
            },
        ),
    ),
)

EXPERTS = Board(
    "experts",
    "experts",
    (
        Panel("Loaded experts", "short", {"{{pod}}": _sum("caracal_expert_loaded_experts")}),
        Panel(
            "Unplaced experts and blocked drains",
            "short",
            {
                "unplaced experts": f"max(caracal_experts_unplaced{{{_HERE}}})",
                "workers that cannot be drained": f"max(caracal_placement_blocked_drains{{{_HERE}}})",
            },
        ),
        Panel(
            "Epoch of the placement table",
            "none",
            {"{{pod}}": f"{_sum('caracal_expert_epoch')} or {_sum('caracal_attention_epoch')}"},
        ),
        Panel(
            "Balancedness: mean / greatest load of the pods in a layer",
            "percentunit",
            {"by the last reading": f"max(caracal_placement_balancedness{{{_HERE}}})"},
        ),
        Panel(
            "Experts loaded for new tables",
            "ops",
            {
                "experts": _rate("caracal_placement_experts_loaded_total"),
                "tables": _rate("caracal_placement_tables_total"),
            },
        ),
        Panel(
            "Hottest and mean expert of a pod, assignments per second",
            "short",
            {"{{pod}} hottest": _sum("caracal_expert_load_max"), "{{pod}} mean": _sum("caracal_expert_load_mean")},
        ),
        Panel("Queue time", "s", _quantiles("caracal_expert_queue_seconds", 0.5, 0.99)),
        Panel(
            "Queue time of the last 30 s (autoscaling signal)",
            "ms",
            {"{{pod}}": _sum("caracal_expert_queue_recent_milliseconds")},
        ),
        Panel(
            "Share of time in launches", "percentunit", {"{{pod}}": _rate("caracal_expert_busy_seconds_total", "pod")}
        ),
        Panel("Launches per second", "ops", {"{{pod}}": _rate("caracal_expert_launches_total", "pod")}),
        Panel(
            "Time of one launch",
            "s",
            {"{{pod}}": _per("caracal_expert_busy_seconds_total", "caracal_expert_launches_total")},
        ),
        Panel(
            "Rows of one launch",
            "short",
            {"{{pod}}": _per("caracal_expert_rows_total", "caracal_expert_launches_total")},
        ),
        Panel(
            "Calls of one launch",
            "short",
            {"{{pod}}": _per("caracal_expert_calls_total", "caracal_expert_launches_total")},
        ),
        Panel(
            "Calls not computed",
            "ops",
            {
                "{{pod}} failed": _rate("caracal_expert_failed_calls_total", "pod"),
                "{{pod}} rejected": _rate("caracal_expert_rejected_calls_total", "pod"),
            },
        ),
    ),
)

BOARDS = (REQUESTS, ENGINE, EXPERTS)
