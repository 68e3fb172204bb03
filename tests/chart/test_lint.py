"""`helm lint` passes with every profile."""

import subprocess

import pytest
from support.chart_objects import Chart

from k8s.tools.render import PROFILES
from k8s.tools.values import CHART

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("profile", PROFILES)
def test_lint(chart: Chart, profile: str) -> None:
    values = CHART / "profiles" / f"{profile}.yaml"
    command = [str(chart.helm), "lint", "--strict", str(CHART), "--values", str(values)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
