"""The chart takes the values that `caracal plan --values` writes, unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.chart_objects import Chart, Object, find
from typer.testing import CliRunner

from k8s.tools import helm
from services.cli.app import app
from services.cli.planning.question import Question, ask
from services.cli.planning.sizing import sizing
from services.planner.traffic import Slo, Traffic

pytestmark = pytest.mark.processes


def render(chart: Chart, file: Path) -> list[Object]:
    text = helm.template("-f", str(file), helm=chart.helm)
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.mark.parametrize(
    ("gpu", "count", "more"),
    [
        ("h800", 64, []),
        ("h200", 32, ["--replicas", "2", "--weights", "bf16"]),
        ("b200", 16, ["--kv", "fp8", "--itl", "40"]),
    ],
)
def test_values_of_gpus_render_with_the_planned_sizes(
    chart: Chart, tmp_path: Path, gpu: str, count: int, more: list[str]
) -> None:
    file = tmp_path / "values.yaml"
    words = ["plan", "flash-chat", "--gpu", gpu, "--gpus", str(count), "--values", str(file), *more]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    objects = render(chart, file)
    values = yaml.safe_load(file.read_text())
    experts, attention = (find(objects, "StatefulSet", f"caracal-{role}") for role in ("expert", "attention"))
    assert experts["spec"]["replicas"] == values["expert"]["replicas"]
    assert attention["spec"]["replicas"] == values["attention"]["replicas"]
    gpus = values["attention"]["replicas"] * values["attention"]["tp"] + values["expert"]["replicas"]
    assert gpus == count
    limits = attention["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] in (values["attention"]["tp"], str(values["attention"]["tp"]))


def test_values_of_the_built_in_model_on_cpus_render(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    words = ["plan", "models/caracal-tiny", "--gpu", "cpu", "--gpus", "4", "--prompt", "100", "--answer", "50"]
    done = CliRunner().invoke(app, [*words, "--values", str(file)])
    assert done.exit_code == 0, done.output
    found = find(render(chart, file), "StatefulSet", "caracal-expert")
    assert found["spec"]["replicas"] >= 1
    assert "model" not in yaml.safe_load(file.read_text())  # the chart's own default


def test_autoscalers_start_at_the_planned_size(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    question = Question(model="flash-chat", gpu="h800", gpus=64, traffic=Traffic(), slo=Slo(ttft_s=5.0, itl_s=0.05))
    CliRunner().invoke(app, ["plan", "flash-chat", "--gpu", "h800", "--gpus", "64", "--values", str(file)])
    found = ask(question)
    size = sizing(found.machine, found.answer.chosen["separate"], question.traffic, question.slo)
    text = helm.template("-f", str(file), "--set", "pod.autoscaling.enabled=true", helm=chart.helm)
    objects = [document for document in yaml.safe_load_all(text) if document]
    scaler = find(objects, "HorizontalPodAutoscaler", "caracal-attention")
    assert scaler["spec"]["minReplicas"] == size.attention_workers
