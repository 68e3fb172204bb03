"""The notes after an install are right about names, addresses and checks that did not run."""

import subprocess

import pytest
from support.chart_objects import Chart

from k8s.tools.values import CHART

pytestmark = pytest.mark.processes

OFF = "The capacity check is off"


def _notes(chart: Chart, *arguments: str) -> str:
    command = [str(chart.helm), "install", "flash", str(CHART), "--dry-run=client", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.rpartition("NOTES:")[2]


def test_commands_have_the_names_of_this_release(chart: Chart) -> None:
    notes = _notes(chart)
    assert "statefulset/flash-caracal-expert" in notes
    assert OFF not in notes


def test_without_sizes_the_notes_say_that_the_capacity_check_is_off(chart: Chart) -> None:
    profile = ("--values", str(CHART / "profiles/gpu-1node.yaml"))
    assert "need at least 5 expert pods" in _notes(chart, *profile)
    for size in ("count", "memoryGiB"):
        assert OFF in _notes(chart, *profile, "--set", f"expert.accelerator.{size}=0")
    assert OFF not in _notes(chart, *profile, "--set", "expert.accelerator.memoryGiB=0,expert.capacity=3000")


def test_the_notes_warn_of_a_single_expert_pod(chart: Chart) -> None:
    assert "There is one expert pod" not in _notes(chart, "--values", str(CHART / "profiles/cpu-tiny.yaml"))
    assert "There is one expert pod" in _notes(chart, "--set", "expert.replicas=1")


def test_the_notes_show_the_published_address(chart: Chart) -> None:
    notes = _notes(chart, "--set", "ingress.enabled=true,ingress.hosts={a.example.com}")
    assert "From outside: http://a.example.com/v1\n" in notes


def test_the_notes_say_that_a_picker_shows_no_key(chart: Chart) -> None:
    pool = "inferencePool.enabled=true,inferencePool.endpointPicker.name=picker"
    assert "an endpoint picker shows none" not in _notes(chart, "--set", pool)
    assert "an endpoint picker shows none" in _notes(chart, "--set", f"{pool},router.apiKeys.existingSecret=keys")
