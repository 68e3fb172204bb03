"""OTEL_* variables: what turns tracing on, what is rejected, and that nothing is imported while it is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.process.settings import InvalidSetting
from services.process.tracing_variables import DOCUMENTED, otlp_protocol

REPO = Path(__file__).resolve().parents[2]
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


@pytest.mark.parametrize(
    ("given", "protocol"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "cat", "OTEL_TRACES_SAMPLER": "always_on"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (ENDPOINT, "grpc"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://[::1]:4318/v1/traces"}, "grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "grpc"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http/protobuf"),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            "http/protobuf",
        ),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": "nonsense"}, None),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "False"}, "grpc"),
        (ENDPOINT | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "grpc"),
        (ENDPOINT | {"OTEL_RESOURCE_ATTRIBUTES": "a=b, c=d=e", "OTEL_PROPAGATORS": "tracecontext,baggage"}, "grpc"),
    ],
    ids=range(13),
)
def test_what_turns_tracing_on(given: dict[str, str], protocol: str | None) -> None:
    assert otlp_protocol({"PATH": "/", **given}) == protocol


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:seventy"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1.5"),
        ("OTEL_RESOURCE_ATTRIBUTES", "region"),
        ("OTEL_SDK_DISABLED", "maybe"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_CONFIG_FILE", "otel.yaml"),
    ],
)
def test_a_value_that_cannot_be_used_is_rejected_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^{name} is ") as raised:
        otlp_protocol(ENDPOINT | {name: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ratio", ["", "two", "1.5", "-0.1", "nan"])
def test_the_ratio_of_a_sampler_is_a_share(ratio: str) -> None:
    sampled = ENDPOINT | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    if not ratio:
        assert otlp_protocol(sampled) == "grpc"
        return
    with pytest.raises(InvalidSetting, match="OTEL_TRACES_SAMPLER_ARG is"):
        otlp_protocol(sampled)


def test_documented_variables_are_opentelemetrys() -> None:
    from opentelemetry import environment_variables as api
    from opentelemetry.sdk import environment_variables as sdk

    known = {name for module in (api, sdk) for name in vars(module) if name.startswith("OTEL_")}
    assert {name for name, _, _ in DOCUMENTED} <= known


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CARACAL_", "OTEL_"))}
    paths = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=inherited | {"PYTHONPATH": paths} | env, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.mark.processes
@pytest.mark.parametrize("role", ["router", "attention_worker", "expert_worker"])
def test_while_it_is_off_neither_tracer_nor_exporter_is_imported(role: str) -> None:
    """redis-py and FastAPI import some of OpenTelemetry's modules by themselves where they are installed."""
    imported = "[n for n in sys.modules if n.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter'))]"
    code = f"import sys, services.{role}.__main__; from services.process import tracing\n"
    code += f"tracing.configure('a', 'b'); print(tracing.active(), 'services.process.otel' in sys.modules, {imported})"
    assert run("-c", code).stdout == "None False []\n"
    if role == "router":  # the others do the same, and take seconds to import
        assert run("-c", code, **ENDPOINT).stdout != "None False []\n"


@pytest.mark.processes
def test_a_bad_variable_ends_a_process_with_one_line() -> None:
    done = run("-m", "services.router", CARACAL_MODEL="/", OTEL_TRACES_SAMPLER="sometimes", **ENDPOINT)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("caracal: OTEL_TRACES_SAMPLER is 'sometimes': must be always_on, ")
