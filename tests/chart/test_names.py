"""Object names derive from the release's name, and no two releases share one."""

import subprocess

import pytest
from support.chart_objects import Chart

from k8s.tools.values import CHART

pytestmark = pytest.mark.processes


def _render(chart: Chart, release: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(chart.helm), "template", release, str(CHART), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _sets(chart: Chart, release: str) -> set[str]:
    done = _render(chart, release)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    named = {line[1] for line in lines if len(line) == 2 and line[0] == "name:" and line[1].endswith("-expert")}
    return {name for name in named if "-mtls-" not in name}


@pytest.mark.parametrize(
    ("release", "experts"),
    [
        ("caracal", "caracal-expert"),
        ("my-caracal", "my-caracal-expert"),
        ("flash", "flash-caracal-expert"),
    ],
)
def test_names_follow_the_rule_in_the_manual(chart: Chart, release: str, experts: str) -> None:
    assert _sets(chart, release) == {experts}


def test_long_release_names_with_a_common_prefix_stay_distinct(chart: Chart) -> None:
    long = "a-release-of-the-longest-name-helm-takes-which-is-"
    first, second = _sets(chart, f"{long}one"), _sets(chart, f"{long}two")
    assert len(first) == len(second) == 1
    assert first != second
    assert len((first | second).pop()) <= 40 + len("-expert")


@pytest.mark.parametrize("release", ["my.release", "7b"])
def test_a_release_name_that_no_service_can_have_is_rejected(chart: Chart, release: str) -> None:
    done = _render(chart, release)
    assert done.returncode != 0
    assert "Choose another release name, or set fullnameOverride" in done.stderr
    assert _render(chart, release, "--set", "fullnameOverride=seven").returncode == 0
