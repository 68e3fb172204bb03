"""Every alert of the chart fires when it should and not before, by Prometheus' own rule evaluation."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.chart_objects import EVERYTHING, Chart, find

from k8s.tools.install_promtool import PromtoolMissing, find_promtool

pytestmark = pytest.mark.processes

STEP_S = 15
HERE = 'namespace="caracal"'
ELSEWHERE = 'namespace="other"'
ROUTER = f'{HERE},pod="caracal-router-7",model_name="tiny"'
ATTENTION = f'{HERE},pod="caracal-attention-0"'
EXPERT = f'{HERE},pod="caracal-expert-0"'


def always(value: float) -> str:
    """Values of a series that stays the same for half an hour."""
    return f"{value:g}+0x120"


def growing(per_step: float) -> str:
    """Values of a counter."""
    return f"0+{per_step:g}x120"


@dataclass(frozen=True)
class Case:
    """Series, and what an alert does with them at a time. `fires`: with these labels; None = it does not."""

    series: dict[str, str]
    at: str
    fires: dict[str, str] | None
    filled: dict[str, str] = field(default_factory=dict)  # what the summary's templates become


def histogram(name: str, labels: str, bounds: dict[str, float]) -> dict[str, str]:
    """The buckets of a histogram that counts so much per step up to each bound."""
    return {f'{name}_bucket{{{labels},le="{bound}"}}': growing(count) for bound, count in bounds.items()}


WORKERS = "caracal_gateway_attention_workers"
FIRST_TOKEN, BETWEEN = "caracal:time_to_first_token_seconds", "caracal:inter_token_latency_seconds"
QUEUE = "caracal_expert_queue_seconds"
EXPIRES = "caracal_tls_certificate_expires_seconds"
SUCCESS = f'caracal:request_success_total{{{ROUTER},finished_reason="stop"}}'
FAILURE = f'caracal:request_failure_total{{{ROUTER},code="no_worker"}}'

CASES: dict[str, list[Case]] = {
    "CaracalNoRouter": [
        Case({f"{WORKERS}{{{ROUTER}}}": always(1)}, "5m", None),
        Case({f"{WORKERS}{{{ELSEWHERE}}}": always(1)}, "5m", {"namespace": "caracal"}),
        Case({f"{WORKERS}{{{ELSEWHERE}}}": always(1)}, "45s", None),
    ],
    "CaracalPodSilent": [
        Case({f"up{{{ROUTER}}}": always(1), f'up{{{HERE},pod="another-0"}}': always(0)}, "5m", None),
        Case({f"up{{{EXPERT}}}": "1 1 0+0x100"}, "2m", None),
        Case(
            {f"up{{{EXPERT}}}": "1 1 0+0x100"},
            "3m",
            {"namespace": "caracal", "pod": "caracal-expert-0"},
            {"$labels.pod": "caracal-expert-0"},
        ),
    ],
    "CaracalCannotAnswer": [
        Case({f"{WORKERS}{{{ROUTER}}}": always(0), f'{WORKERS}{{{HERE},pod="b"}}': always(1)}, "5m", None),
        Case({f"{WORKERS}{{{ROUTER}}}": always(0)}, "2m", {}),
    ],
    "CaracalExpertsUnplaced": [
        Case({f"caracal_experts_unplaced{{{ROUTER}}}": always(0)}, "5m", None),
        Case({f"caracal_experts_unplaced{{{ROUTER}}}": always(7)}, "30s", None),
        Case({f"caracal_experts_unplaced{{{ROUTER}}}": always(7)}, "2m", {}, {"$value": "7"}),
    ],
    "CaracalDrainBlocked": [
        Case({f"caracal_placement_blocked_drains{{{ROUTER}}}": always(0)}, "5m", None),
        Case({f"caracal_placement_blocked_drains{{{ROUTER}}}": always(2)}, "1m", {}, {"$value": "2"}),
    ],
    "CaracalWorkersQuarantined": [
        Case(
            {
                f"caracal_quarantined_workers{{{ROUTER}}}": always(0),
                f"caracal_quarantined_workers{{{ELSEWHERE}}}": always(1),
            },
            "5m",
            None,
        ),
        Case({f"caracal_quarantined_workers{{{ROUTER}}}": "0 0 0 0 1+0x100"}, "75s", None),
        # The leader alone counts them; the pod of another router says 0.
        Case(
            {
                f"caracal_quarantined_workers{{{ROUTER}}}": always(2),
                f'caracal_quarantined_workers{{{HERE},pod="b"}}': always(0),
            },
            "1m",
            {},
            {"$value": "2"},
        ),
    ],
    "CaracalTableStale": [
        Case(
            {f"caracal_attention_epoch{{{ATTENTION}}}": always(4), f"caracal_expert_epoch{{{EXPERT}}}": always(4)},
            "5m",
            None,
        ),
        Case(
            {f"caracal_attention_epoch{{{ATTENTION}}}": always(4), f"caracal_expert_epoch{{{EXPERT}}}": always(0)},
            "5m",
            None,
        ),
        Case(
            {f"caracal_attention_epoch{{{ATTENTION}}}": always(5), f"caracal_expert_epoch{{{EXPERT}}}": always(4)},
            "2m",
            {},
        ),
    ],
    "CaracalRedisLost": [
        Case({f"caracal_redis_up{{{ROUTER}}}": always(1), f"caracal_redis_up{{{ELSEWHERE}}}": always(0)}, "5m", None),
        Case({f"caracal_redis_up{{{ROUTER}}}": always(1), f"caracal_redis_up{{{EXPERT}}}": always(0)}, "2m", {}),
    ],
    "CaracalRequestsFail": [
        Case({SUCCESS: growing(200), FAILURE: growing(1)}, "10m", None),
        Case({SUCCESS: growing(50), FAILURE: growing(1)}, "10m", {}),
        Case({FAILURE: growing(1)}, "10m", {}),
        Case({SUCCESS: growing(50), FAILURE: always(3)}, "10m", None),
    ],
    "CaracalFirstTokenSlow": [
        Case(histogram(FIRST_TOKEN, ROUTER, {"10.0": 99.5, "20.0": 100, "+Inf": 100}), "10m", None),
        Case(histogram(FIRST_TOKEN, ROUTER, {"10.0": 98, "20.0": 100, "+Inf": 100}), "10m", {}),
        Case(histogram(FIRST_TOKEN, ROUTER, {"10.0": 98, "20.0": 100, "+Inf": 100}), "4m", None),
    ],
    "CaracalTokensSlow": [
        Case(histogram(BETWEEN, ROUTER, {"0.5": 99.5, "0.75": 100, "+Inf": 100}), "10m", None),
        Case(histogram(BETWEEN, ROUTER, {"0.5": 98, "0.75": 100, "+Inf": 100}), "10m", {}),
    ],
    "CaracalQueueGrows": [
        Case(
            {f"caracal:num_requests_waiting{{{ROUTER}}}": always(64), f"{WORKERS}{{{ROUTER}}}": always(2)}, "10m", None
        ),
        Case(
            {f"caracal:num_requests_waiting{{{ATTENTION}}}": always(99), f"{WORKERS}{{{ROUTER}}}": always(2)},
            "10m",
            None,
        ),
        Case({f"caracal:num_requests_waiting{{{ROUTER}}}": always(65), f"{WORKERS}{{{ROUTER}}}": always(2)}, "10m", {}),
    ],
    "CaracalCacheFull": [
        Case({f"caracal:kv_cache_usage_perc{{{ATTENTION}}}": always(0.95)}, "10m", None),
        Case({f"caracal:kv_cache_usage_perc{{{ATTENTION}}}": always(0.96)}, "10m", {}),
    ],
    "CaracalExpertsSlow": [
        Case(histogram(QUEUE, EXPERT, {"0.05": 99.5, "0.1": 100, "+Inf": 100}), "10m", None),
        Case(histogram(QUEUE, EXPERT, {"0.05": 98, "0.1": 100, "+Inf": 100}), "10m", {}),
    ],
    "CaracalFailsOverOften": [
        Case({f"caracal_gateway_failovers_total{{{ROUTER}}}": growing(0.2)}, "15m", None),
        Case({f"caracal_gateway_failovers_total{{{ROUTER}}}": growing(0.5)}, "15m", {}),
    ],
    "CaracalCertificateExpires": [
        Case({f"{EXPIRES}{{{EXPERT}}}": always(700_000), f"{EXPIRES}{{{ROUTER}}}": always(900_000)}, "15m", None),
        Case({f"{EXPIRES}{{{EXPERT}}}": always(600_000), f"{EXPIRES}{{{ROUTER}}}": always(900_000)}, "15m", {}),
    ],
}


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return find_promtool()
    except PromtoolMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def groups(chart: Chart) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = find(chart.render(*EVERYTHING), "PrometheusRule", "caracal-alerts")["spec"]["groups"]
    return found


def run(promtool: Path, *arguments: str | Path) -> str:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def unit_tests(rules: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for name, cases in CASES.items():
        for number, case in enumerate(cases):
            expected = []
            if case.fires is not None:
                summary = rules[name]["annotations"]["summary"]
                for template, value in case.filled.items():
                    summary = summary.replace(f"{{{{ {template} }}}}", value)
                labels = case.fires | rules[name]["labels"]
                expected.append({"exp_labels": labels, "exp_annotations": {"summary": summary}})
            yield {
                "name": f"{name} {number}",
                "interval": f"{STEP_S}s",
                "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
                "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": expected}],
            }


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(groups: list[dict[str, Any]]) -> None:
    assert list(CASES) == [rule["alert"] for group in groups for rule in group["rules"]]
    assert all({case.fires is None for case in cases} == {True, False} for cases in CASES.values())


def test_prometheus_reads_the_rules(promtool: Path, groups: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    assert f"SUCCESS: {len(CASES)} rules found" in run(
        promtool, "check", "rules", "--lint=all", tmp_path / "rules.yaml"
    )


def test_alerts_fire_when_they_should_and_not_before(
    promtool: Path, groups: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{STEP_S}s", "tests": list(unit_tests(rules))}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    run(promtool, "test", "rules", tmp_path / "tests.yaml")


def test_a_wrong_expectation_is_noticed(promtool: Path, groups: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    wrong = {
        "interval": "15s",
        "input_series": [{"series": f"caracal_redis_up{{{ROUTER}}}", "values": always(0)}],
        "alert_rule_test": [{"eval_time": "5m", "alertname": "CaracalRedisLost", "exp_alerts": []}],
    }
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [wrong]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    with pytest.raises(AssertionError, match="CaracalRedisLost"):
        run(promtool, "test", "rules", tmp_path / "tests.yaml")
