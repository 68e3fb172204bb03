"""What is worth seeing, board by board. A test holds every metric name here against the services' own."""

from collections.abc import Mapping
from dataclasses import dataclass

_HERE = '{namespace="$namespace"}'


@dataclass(frozen=True)
class Panel:
    """One panel: Grafana unit, and PromQL by legend."""

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
    rate = f"sum by (le) (rate({histogram}_bucket{_HERE}[$__rate_interval]))"
    return {f"p{quantile * 100:g}": f"histogram_quantile({quantile}, {rate})" for quantile in quantiles}


def _rate(counter: str, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({counter}{_HERE}[$__rate_interval]))"


def _sum(gauge: str, by: str = "pod") -> str:
    return f"sum by ({by}) ({gauge}{_HERE})"


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
            {"generated": _rate("caracal:generation_tokens_total"), "prompt": _rate("caracal:prompt_tokens_total")},
        ),
        Panel(
            "Finished, by reason",
            "reqps",
            {"{{finished_reason}}": _rate("caracal:request_success_total", "finished_reason")},
        ),
        Panel("Failed, by code", "reqps", {"{{code}}": _rate("caracal:request_failure_total", "code")}),
        Panel(
            "HTTP answers, by status", "reqps", {"{{status}}": _rate("caracal_gateway_http_requests_total", "status")}
        ),
        Panel(
            "Failovers nobody saw",
            "ops",
            {
                "failovers": _rate("caracal_gateway_failovers_total"),
                "clients left": _rate("caracal_gateway_cancelled_total"),
            },
        ),
    ),
)

BOARDS = (REQUESTS,)
