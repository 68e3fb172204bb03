"""Request metrics: vLLM's names and buckets with the prefix `caracal:`, the gateway's own with `caracal_gateway_`.

Counters are named without `_total`, which the client library adds.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.router.requests.admission_metrics import AdmissionMetrics
from services.router.requests.draft_metrics import DraftMetrics
from services.router.requests.token_metrics import TokenMetrics

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
COUNT_BUCKETS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))


class RequestMetrics:
    """The request metrics of one router; `registry` is what /metrics shows."""

    def __init__(self, model_name: str, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.model_name = model_name
        self.waiting = self._gauge("caracal:num_requests_waiting", "Sequences that have no token yet")
        self.running = self._gauge("caracal:num_requests_running", "Sequences that have begun to answer")
        self.kv_usage = self._gauge("caracal:kv_cache_usage_perc", "KV pages in use at the fullest worker, 0 to 1")
        self.workers = self._gauge("caracal_gateway_attention_workers", "Attention workers that take sequences")
        self.hints = self._gauge("caracal_gateway_prefix_hints", "Attention workers that say what they have cached")
        self.prompt_tokens = self._counter("caracal:prompt_tokens", "Prompt tokens of accepted sequences")
        self.prefix_queries = self._counter("caracal:prefix_cache_queries", "Prompt tokens of sequences that began")
        self.prefix_hits = self._counter("caracal:prefix_cache_hits", "Those of them that workers had in their caches")
        self.each_token = TokenMetrics(model_name, TOKEN_BUCKETS)
        registry.register(self.each_token)
        self.drafts = DraftMetrics(model_name)
        registry.register(self.drafts)
        self.first_token = self._histogram(
            "caracal:time_to_first_token_seconds", "Time to first token", FIRST_TOKEN_BUCKETS
        )
        self.per_token = self._histogram(
            "caracal:request_time_per_output_token_seconds", "Mean time per token after the first", TOKEN_BUCKETS
        )
        self.whole = self._histogram("caracal:e2e_request_latency_seconds", "Time of a whole request", REQUEST_BUCKETS)
        self.decode = self._histogram(
            "caracal:request_decode_time_seconds", "Time from first to last token", REQUEST_BUCKETS
        )
        self.prompt_length = self._histogram("caracal:request_prompt_tokens", "Prompt tokens", COUNT_BUCKETS)
        self.reply_length = self._histogram("caracal:request_generation_tokens", "Tokens generated", COUNT_BUCKETS)
        self._success = self._labelled("caracal:request_success", "Finished sequences", "finished_reason")
        self._failure = self._labelled("caracal:request_failure", "Sequences ended by an error", "code")
        self.cancelled = self._counter("caracal_gateway_cancelled", "Sequences whose client left")
        self.attempts = self._counter("caracal_gateway_attempts", "Attempts opened at attention workers")
        self.failovers = self._counter("caracal_gateway_failovers", "Attempts opened because an earlier one failed")
        self.dropped_tokens = self._counter("caracal_gateway_dropped_tokens", "Tokens of stale attempts or indices")
        self.keys_outdated = self._gauge(
            "caracal_gateway_api_keys_outdated", "1 while the file of API keys cannot be used and earlier keys apply"
        )
        self.admission = AdmissionMetrics(registry)
        self._http = Counter(
            "caracal_gateway_http_requests", "HTTP responses", ["method", "route", "status"], registry=registry
        )

    def success(self, reason: str) -> Counter:
        return self._success.labels(self.model_name, reason)

    def failure(self, code: str) -> Counter:
        return self._failure.labels(self.model_name, code)

    def http(self, method: str, route: str, status: int) -> Counter:
        return self._http.labels(method, route, str(status))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name"], registry=self.registry).labels(self.model_name)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], registry=self.registry).labels(self.model_name)

    def _labelled(self, name: str, text: str, label: str) -> Counter:
        return Counter(name, text, ["model_name", label], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model_name"], buckets=buckets, registry=self.registry).labels(self.model_name)
