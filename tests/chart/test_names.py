"""Names of objects: what a release is called decides, and no two releases share one."""

import subprocess

import pytest
from support.chart_objects import Chart

from k8s.tools.values import CHART


def _render(chart: Chart, release: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(chart.helm), "template", release, str(CHART), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _sets(chart: Chart, release: str) -> set[str]:
    done = _render(chart, release)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[1] for line in lines if len(line) == 2 and line[0] == "name:" and line[1].endswith("-expert")}


@pytest.mark.parametrize(
    ("release", "experts"),
    [
        ("caracal", "caracal-expert"),
        ("my-caracal", "my-caracal-expert"),
        ("flash", "flash-caracal-expert"),
    ],
)
def test_the_rule_of_the_manual(chart: Chart, release: str, experts: str) -> None:
    assert _sets(chart, release) == {experts}


def test_releases_that_agree_at_first_keep_apart(chart: Chart) -> None:
    long = "a-release-of-the-longest-name-helm-takes-which-is-"
    first, second = _sets(chart, f"{long}one"), _sets(chart, f"{long}two")
    assert len(first) == len(second) == 1
    assert first != second
    assert len((first | second).pop()) <= 40 + len("-expert")


@pytest.mark.parametrize("release", ["my.release", "7b"])
def test_a_release_whose_services_could_not_be_made_is_refused(chart: Chart, release: str) -> None:
    done = _render(chart, release)
    assert done.returncode != 0
    assert "Give another release name, or fullnameOverride" in done.stderr
    assert _render(chart, release, "--set", "fullnameOverride=seven").returncode == 0
