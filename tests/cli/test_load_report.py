"""What `caracal bench serve` computes: arrival times, percentiles, goodput, peaks, the names of its figures."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from services.cli.load.arrivals import arrivals
from services.cli.load.outcome import Outcome
from services.cli.load.report import Values, result, table
from services.cli.load.settings import (
    BadOption,
    Dataset,
    Load,
    Reporting,
    parse_assignments,
    parse_body,
    parse_goodput,
    parse_metrics,
    parse_percentiles,
)

LOAD = Load(base_url="http://x", max_concurrency=2, rate=4.0)
# Keys of the JSON that `vllm bench serve --save-result` writes for a generative model with one percentile.
VLLM_KEYS = {
    *("duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput"),
    *("request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s"),
    *(
        "max_concurrent_requests",
        "input_lens",
        "output_lens",
        "ttfts",
        "itls",
        "generated_texts",
        "errors",
        "queue_times",
    ),
    *(f"{kind}_{name}_ms" for kind in ("mean", "median", "std", "p99") for name in ("ttft", "tpot", "itl", "e2el")),
}


def done(start: float, ttft: float, *itls: float) -> Outcome:
    return Outcome(
        start,
        ttft=ttft,
        itls=list(itls),
        latency=ttft + sum(itls),
        prompt_tokens=10,
        output_tokens=1 + len(itls),
        text="x",
    )


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_spread_that_were_asked_for(burstiness: float) -> None:
    times = arrivals(4000, 20.0, burstiness, seed=1)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4000 / 20.0)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    variation = statistics.stdev(gaps) / statistics.mean(gaps)
    assert variation == pytest.approx(1 / math.sqrt(burstiness), rel=0.1), "a gamma distribution of that shape"
    assert times == arrivals(4000, 20.0, burstiness, seed=1) != arrivals(4000, 20.0, burstiness, seed=2)


def test_no_rate_is_all_at_once_and_no_burst_is_a_fixed_interval() -> None:
    assert arrivals(3, math.inf, 1.0, seed=0) == [0.0, 0.0, 0.0]
    assert arrivals(3, 2.0, math.inf, seed=0) == [0.5, 1.0, 1.5]


def test_statistics_are_numpys() -> None:
    values = [0.3, 0.1, 0.25, 0.9, 0.11]
    found = Values(values)
    assert found.mean == pytest.approx(np.mean(values) * 1e3)
    assert found.std == pytest.approx(np.std(values) * 1e3)
    for percent in (0, 25, 50, 99, 99.9, 100):
        assert found.percentile(percent) == pytest.approx(np.percentile(values, percent) * 1e3)
    assert Values([]).percentile(99) == Values([]).mean == Values([]).std == 0


def test_figures_count_what_succeeded_and_have_the_names_of_vllm() -> None:
    outcomes = [done(0.0, 0.1, 0.05, 0.05), done(0.1, 0.4, 0.1), Outcome(0.2, error="500: broken")]
    goals = parse_goodput(["ttft:200", "e2el:300"])
    found = result(outcomes, 2.0, Reporting(goodput=goals))
    assert set(found) >= VLLM_KEYS
    assert (found["completed"], found["failed"]) == (2, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (20, 5)
    assert found["output_throughput"] == 2.5
    assert found["total_token_throughput"] == 12.5
    assert found["request_throughput"] == 1.0
    assert found["request_goodput"] == 0.5
    assert found["max_concurrent_requests"] == 2
    assert found["mean_tpot_ms"] == pytest.approx((50 + 100) / 2)
    assert found["mean_itl_ms"] == pytest.approx((50 + 50 + 100) / 3)
    assert found["output_lens"] == [3, 2, 0]
    assert found["errors"] == ["", "", "500: broken"]


def test_the_report_shows_the_chosen_metrics_and_percentiles() -> None:
    reporting = Reporting(metrics=("ttft",), percentiles=(50.0, 99.9), goodput={"ttft": 1.0})
    text = table(result([done(0.0, 0.1, 0.05)], 2.0, reporting), LOAD, reporting)
    lines = text.splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert all(len(line) <= 60 for line in lines)
    for label in ("Successful requests:", "Request goodput (req/s):", "P50 TTFT (ms):", "P99.9 TTFT (ms):"):
        assert any(line.startswith(f"{label:<40} ") for line in lines), label
    assert "TPOT" not in text
    assert "Request rate configured (RPS):           4.00" in lines


def test_nothing_succeeded_is_a_report_too() -> None:
    found = result([Outcome(0.0, error="x")], 1.0, Reporting())
    assert (found["completed"], found["failed"], found["p99_itl_ms"], found["max_concurrent_requests"]) == (0, 1, 0, 0)
    assert "Failed requests:                         1" in table(found, LOAD, Reporting())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: parse_goodput(["itl:5"]), "--goodput: 'itl:5' is not METRIC:MILLISECONDS"),
        (lambda: parse_goodput(["ttft=5"]), "--goodput"),
        (lambda: parse_goodput(["ttft:-5"]), "is not from 0"),
        (lambda: parse_goodput(["ttft:nan"]), "is not from 0"),
        (lambda: parse_goodput(["ttft:soon"]), "'soon' is not a number"),
        (lambda: parse_metrics("ttft,latency"), "--percentile-metrics: 'latency' is none of"),
        (lambda: parse_percentiles("50,101"), "--metric-percentiles: 101 is not from 0 to 100"),
        (lambda: parse_assignments("--header", ["x"]), "--header: 'x' is not KEY=VALUE"),
        (lambda: parse_body("[1]"), "--extra-body is not a JSON object"),
        (lambda: parse_body("{"), "--extra-body is not JSON"),
        (lambda: Dataset(name="sonnet"), "--dataset-name is 'sonnet': must be random, sharegpt or custom"),
        (lambda: Dataset(name="custom"), "--dataset-name custom needs --dataset-path"),
        (lambda: Dataset(range_ratio=1.0), "--random-range-ratio is 1"),
        (lambda: Load(base_url="x", rate=0.0), "--request-rate is 0: must be above 0"),
        (lambda: Load(base_url="x", rate=math.nan), "--request-rate is nan"),
        (lambda: Load(base_url="x", burstiness=-1.0), "--burstiness is -1"),
        (lambda: Load(base_url="x", endpoint="/v1/embeddings"), "--endpoint is '/v1/embeddings'"),
    ],
)
def test_a_bad_option_is_named(make: object, why: str) -> None:
    assert callable(make)
    with pytest.raises(BadOption) as caught:
        make()
    assert why in str(caught.value)
