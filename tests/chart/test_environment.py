"""The chart sets no variable that a service does not read: names are the fields of the services' settings."""

import ast
from pathlib import Path

import pytest
from support.chart_objects import EVERYTHING, Chart, environment, pod_specs

SERVICES = Path(__file__).resolve().parents[2] / "services"
SETTINGS = {
    "router": SERVICES / "router/settings.py",
    "attention": SERVICES / "attention_worker/settings.py",
    "expert": SERVICES / "expert_worker/settings.py",
}
# Of the pod, of the operating system, and OpenTelemetry's own.
OTHERS = {"POD_IP", "POD_NAME", "HOME", "REDIS_PASSWORD", "OTEL_EXPORTER_OTLP_ENDPOINT"}
# Every number of the attention worker given, so that its optional variables show.
NUMBERS = ",".join(
    f"attention.{key}=16"
    for key in (
        *("tp", "accelerator.count"),
        *("kvPages", "pageSize", "maxBatchTokens", "maxRunning", "maxModelLen", "expertWaitSeconds"),
    )
)


def _fields(path: Path) -> set[str]:
    """Names of the dataclass fields, read without importing: a worker's settings may sit beside torch."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    names = {
        item.target.id
        for node in classes
        if node.name.endswith("Settings")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assert names, f"{path} has no class Settings"
    return names


@pytest.mark.parametrize("role", SETTINGS)
def test_every_variable_is_a_setting(chart: Chart, role: str) -> None:
    objects = chart.render(*EVERYTHING, NUMBERS, "model.dtype=bfloat16", "pod.threads=2", "link.dispatchDtype=fp8")
    specs = dict(pod_specs([thing for thing in objects if thing["metadata"]["name"] == f"caracal-{role}"]))
    assert len(specs) == 1
    given = environment(next(iter(specs.values()))["containers"][0]).keys() - OTHERS
    read = {f"CARACAL_{name.upper()}" for name in _fields(SETTINGS[role])}
    assert given <= read
    assert {"CARACAL_MODEL", "CARACAL_REDIS_URL", "CARACAL_CLUSTER", "CARACAL_HOST", "CARACAL_PORT"} <= given


def test_the_link_is_the_callers_and_the_dispatch_dtype_is_both_sides(chart: Chart) -> None:
    for values, link, dtype in (((), "grpc", None), (("link.kind=nccl", "link.dispatchDtype=fp8"), "nccl", "fp8")):
        given = {
            name: {key: entry.get("value") for key, entry in environment(spec["containers"][0]).items()}
            for name, spec in pod_specs(chart.render(*values))
            if name in ("StatefulSet/caracal-attention", "StatefulSet/caracal-expert")
        }
        assert given["StatefulSet/caracal-attention"]["CARACAL_LINK"] == link
        assert [env.get("CARACAL_DISPATCH_DTYPE") for env in given.values()] == [dtype, dtype]


def test_variables_are_given_once(chart: Chart) -> None:
    for name, spec in pod_specs(chart.render(*EVERYTHING, NUMBERS)):
        for container in spec["containers"]:
            names = [entry["name"] for entry in container.get("env", [])]
            assert len(names) == len(set(names)), name
