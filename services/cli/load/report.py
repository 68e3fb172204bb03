"""The report of a run: figures under the names of `vllm bench serve`, as text and as JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.cli.load.outcome import Outcome
from services.cli.load.settings import Load, Reporting

HEADERS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}
WIDTH = 50
PER_REQUEST = (
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Values:
    """Values in seconds, shown in milliseconds."""

    values: Sequence[float]

    def percentile(self, percent: float) -> float:
        """Milliseconds, interpolated between the two nearest values; 0 without values."""
        ordered = sorted(self.values)
        if not ordered:
            return 0.0
        place = (len(ordered) - 1) * percent / 100
        below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
        return (below + (above - below) * (place - math.floor(place))) * 1e3

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values) * 1e3 if self.values else 0.0

    @property
    def std(self) -> float:
        mean = self.mean
        return math.sqrt(sum((one * 1e3 - mean) ** 2 for one in self.values) / len(self.values)) if self.values else 0.0


def result(outcomes: Sequence[Outcome], duration: float, reporting: Reporting) -> dict[str, Any]:
    """The figures by their JSON names, with those of each request. `duration` is in seconds."""
    good = [one for one in outcomes if not one.error]
    read, written = sum(one.prompt_tokens for one in good), sum(one.output_tokens for one in good)
    peak_tokens, peak_requests = _peaks(good)
    found: dict[str, Any] = {
        "duration": duration,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "total_input_tokens": read,
        "total_output_tokens": written,
        "request_throughput": len(good) / duration,
        "request_goodput": _met(good, reporting.goodput) / duration if reporting.goodput else None,
        "output_throughput": written / duration,
        "total_token_throughput": (read + written) / duration,
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
        "input_lens": [one.prompt_tokens for one in outcomes],
        "output_lens": [0 if one.error else one.output_tokens for one in outcomes],
        "ttfts": [one.ttft for one in outcomes],
        "itls": [one.itls for one in outcomes],
        "latencies": [one.latency for one in outcomes],
        "start_times": [one.start for one in outcomes],
        "queue_times": [one.queued for one in outcomes],
        "generated_texts": [one.text for one in outcomes],
        "errors": [one.error for one in outcomes],
    }
    for name, values in _metrics(good).items():
        if name in reporting.metrics:
            found |= {f"mean_{name}_ms": values.mean, f"median_{name}_ms": values.percentile(50)}
            found[f"std_{name}_ms"] = values.std
            found |= {f"p{percent:g}_{name}_ms": values.percentile(percent) for percent in reporting.percentiles}
    return found


def table(found: dict[str, Any], load: Load, reporting: Reporting) -> str:
    """The report as text of 50 columns."""
    lines = [
        f"{' Serving Benchmark Result ':=^{WIDTH}}",
        _line("Successful requests:", found["completed"]),
        _line("Failed requests:", found["failed"]),
    ]
    if load.max_concurrency:
        lines.append(_line("Maximum request concurrency:", load.max_concurrency))
    if not math.isinf(load.rate):
        lines.append(_line("Request rate configured (RPS):", load.rate))
    lines += [
        _line("Benchmark duration (s):", found["duration"]),
        _line("Total input tokens:", found["total_input_tokens"]),
        _line("Total generated tokens:", found["total_output_tokens"]),
        _line("Request throughput (req/s):", found["request_throughput"]),
    ]
    if reporting.goodput:
        lines.append(_line("Request goodput (req/s):", found["request_goodput"]))
    lines += [
        _line("Output token throughput (tok/s):", found["output_throughput"]),
        _line("Peak output token throughput (tok/s):", found["max_output_tokens_per_s"]),
        _line("Peak concurrent requests:", found["max_concurrent_requests"]),
        _line("Total token throughput (tok/s):", found["total_token_throughput"]),
    ]
    for name, header in HEADERS.items():
        if name not in reporting.metrics:
            continue
        lines.append(f"{header:-^{WIDTH}}")
        lines += [
            _line(f"{word} {name.upper()} (ms):", found[f"{word.lower()}_{name}_ms"]) for word in ("Mean", "Median")
        ]
        for percent in reporting.percentiles:
            lines.append(_line(f"P{percent:g} {name.upper()} (ms):", found[f"p{percent:g}_{name}_ms"]))
    return "\n".join([*lines, "=" * WIDTH])


def _line(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}".rstrip() if isinstance(value, float) else f"{label:<40} {value}"


def _metrics(good: Sequence[Outcome]) -> dict[str, Values]:
    return {
        "ttft": Values([one.ttft for one in good]),
        "tpot": Values([one.tpot for one in good if one.output_tokens > 1]),
        "itl": Values([value for one in good for value in one.itls]),
        "e2el": Values([one.latency for one in good]),
    }


def _met(good: Sequence[Outcome], goals: dict[str, float]) -> int:
    """How many requests meet every objective, in milliseconds."""

    def of(one: Outcome, name: str) -> float:
        return 1e3 * {"ttft": one.ttft, "tpot": one.tpot, "e2el": one.latency}[name]

    return sum(all(of(one, name) <= most for name, most in goals.items()) for one in good)


def _peaks(good: Sequence[Outcome]) -> tuple[float, int]:
    """Most events with text in one second since the first request, and most requests open at one time."""
    if not good:
        return 0.0, 0
    first = min(one.start for one in good)
    by_second: dict[int, int] = {}
    for one in good:
        at = one.start - first + one.ttft
        for gap in (0.0, *one.itls):
            at += gap
            by_second[int(at)] = by_second.get(int(at), 0) + 1
    changes = sorted(change for one in good for change in ((one.start, 1), (one.start + one.latency, -1)))
    open_now = most = 0
    for _, change in changes:
        open_now += change
        most = max(most, open_now)
    return float(max(by_second.values())), most
