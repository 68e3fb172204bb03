"""The chart takes the values that `caracal plan --values` writes, unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.chart_objects import Chart, Object, find
from support.tiny_checkpoint import make_checkpoint
from typer.testing import CliRunner

from k8s.tools import helm
from services.cli.app import app
from services.cli.planning.question import Question, ask
from services.cli.planning.sizing import sizing
from services.planner.memory import LEAST_TOKENS
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
    assert values["attention"]["maxItlMs"] == (40 if "--itl" in more else 50)  # the SLO that was planned for
    gpus = values["attention"]["replicas"] * values["attention"]["tp"] + values["expert"]["replicas"]
    assert gpus == count
    limits = attention["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] in (values["attention"]["tp"], str(values["attention"]["tp"]))


def test_values_of_the_built_in_model_on_cpus_render(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    words = ["plan", "models/caracal-tiny", "--gpu", "cpu", "--gpus", "4", "--prompt", "100", "--answer", "50"]
    done = CliRunner().invoke(app, [*words, "--values", str(file)])
    assert done.exit_code == 0, done.output
    objects, values = render(chart, file), yaml.safe_load(file.read_text())
    assert find(objects, "StatefulSet", "caracal-expert")["spec"]["replicas"] >= 1
    assert "model" not in values  # the chart's own default
    assert values["attention"]["kvPages"] == LEAST_TOKENS // 64
    assert values["attention"]["resources"]["requests"]["memory"] == "2Gi"
    assert values["attention"]["maxRunning"] <= 256
    target = values["expert"]["autoscaling"]["target"]
    assert 0 < target < 1
    pod = find(objects, "StatefulSet", "caracal-attention")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "CARACAL_KV_PAGES", "value": "512"} in pod["env"]


def test_tables_of_n_grams_have_memory(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    words = ["plan", "flash-lite", "--gpu", "h200", "--gpus", "16", "--values", str(file)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "n-gram tables" in done.output
    pod = find(render(chart, file), "StatefulSet", "caracal-attention")["spec"]["template"]["spec"]
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    size = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi"))
    assert size >= 59  # 58.5 GiB of tables
    assert int(pod["containers"][0]["resources"]["requests"]["memory"].removesuffix("Gi")) > size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deepseek-v3", "--gpu", "h200"], "Caracal does not serve DeepSeek-V3; the nearest: flash-chat"),
        (["longcat-2.0", "--gpu", "b200"], "Caracal does not serve LongCat-2.0"),
        (["flash-chat", "--gpu", "910c"], "no kernels for 910c; the nearest: a GPU by NVIDIA, or --gpu cpu"),
        (["flash-chat", "--gpu", "b200", "--weights", "nvfp4"], "no weights in nvfp4; the nearest: --weights fp8"),
        (["flash-chat", "--gpu", "b200", "--kv", "fp32"], "--kv fp32 is not the model's dtype; the nearest: --kv bf16"),
        (["flash-chat", "--gpu", "b200", "--weights", "fp32"], "the nearest: --kv fp32, or --kv fp8"),
    ],
)
def test_what_the_chart_cannot_serve_gets_no_values(tmp_path: Path, words: list[str], said: str) -> None:
    file = tmp_path / "values.yaml"
    done = CliRunner().invoke(app, ["plan", *words, "--gpus", "64", "--values", str(file)])
    assert done.exit_code == 2
    assert said in done.output
    assert not file.exists()


def test_a_folder_that_no_address_can_have_is_named(tmp_path: Path) -> None:
    folder, file = make_checkpoint(tmp_path / "my model"), tmp_path / "values.yaml"
    asked = ["plan", str(folder), "--gpu", "cpu", "--gpus", "4", "--prompt", "100", "--answer", "50"]
    done = CliRunner().invoke(app, [*asked, "--values", str(file)])
    assert done.exit_code == 2
    assert "the model's folder is 'my model', which no pvc:// address can have" in done.output


def test_weights_in_fp32_are_served_in_fp32(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    asked = ["plan", "flash-lite", "--gpu", "h200", "--gpus", "32", "--weights", "fp32", "--kv", "fp32"]
    done = CliRunner().invoke(app, [*asked, "--values", str(file)])
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(file.read_text())
    assert (values["model"]["dtype"], values["model"]["shape"]["storage"]) == ("float32", "float32")
    assert render(chart, file)


def test_autoscalers_start_at_the_planned_size(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    question = Question(model="flash-chat", gpu="h800", gpus=64, traffic=Traffic(), slo=Slo(ttft_s=5.0, itl_s=0.05))
    CliRunner().invoke(app, ["plan", "flash-chat", "--gpu", "h800", "--gpus", "64", "--values", str(file)])
    found = ask(question)
    size = sizing(found.machine, found.answer.chosen["separate"], question.traffic)
    text = helm.template("-f", str(file), "--set", "pod.autoscaling.enabled=true", helm=chart.helm)
    objects = [document for document in yaml.safe_load_all(text) if document]
    scaler = find(objects, "HorizontalPodAutoscaler", "caracal-attention")
    assert scaler["spec"]["minReplicas"] == size.attention_workers
