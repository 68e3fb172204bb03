"""Every variable that the chart sets is a field of the service's settings class."""

from dataclasses import fields

import pytest
from support.chart_objects import EVERYTHING, Chart, environment, pod_specs

from services.attention_worker.settings import AttentionSettings
from services.expert_worker.settings import ExpertSettings
from services.process.settings import Settings
from services.router.settings import RouterSettings

pytestmark = pytest.mark.processes

SETTINGS: dict[str, type[Settings]] = {
    "router": RouterSettings,
    "attention": AttentionSettings,
    "expert": ExpertSettings,
}
# Variables of the pod's spec and of the operating system.
OTHERS = {"POD_IP", "POD_NAME", "HOME"}
# Sets every number of the attention worker, whose variables are left out by default.
NUMBERS = (
    ",".join(
        f"attention.{key}=16"
        for key in (
            *("tp", "accelerator.count"),
            *("kvPages", "pageSize", "maxBatchTokens", "maxItlMs", "maxRunning", "maxModelLen"),
            "expertWaitSeconds",
        )
    )
    + ",attention.tablesDir=/tables,attention.draft=2,link.allowPlainP2p=true"
)


@pytest.mark.parametrize("role", SETTINGS)
def test_every_variable_is_a_setting(chart: Chart, role: str) -> None:
    objects = chart.render(
        *EVERYTHING,
        NUMBERS,
        "router.corsOrigins=*,router.record=/r,router.coldStartSeconds=60",
        "model.dtype=bfloat16",
        "pod.threads=2",
        "link.dispatchDtype=fp8",
    )
    specs = dict(pod_specs([thing for thing in objects if thing["metadata"]["name"] == f"caracal-{role}"]))
    assert len(specs) == 1
    given = environment(next(iter(specs.values()))["containers"][0]).keys() - OTHERS
    read = {f"CARACAL_{field.name.upper()}" for field in fields(SETTINGS[role])}
    assert given <= read
    assert {"CARACAL_MODEL", "CARACAL_REDIS_URL", "CARACAL_CLUSTER", "CARACAL_HOST", "CARACAL_PORT"} <= given


def test_the_link_is_set_on_attention_and_the_dispatch_dtype_on_both_kinds_of_worker(chart: Chart) -> None:
    for values, link, dtype in (
        ((), "", None),
        (("link.kind=grpc",), "grpc", None),
        (("link.kind=nccl,link.allowPlainP2p=true", "link.dispatchDtype=fp8", "model.kvDtype=fp8"), "nccl", "fp8"),
        (("link.kind=native",), "native", None),
    ):
        given = {
            name: {key: entry.get("value") for key, entry in environment(spec["containers"][0]).items()}
            for name, spec in pod_specs(chart.render(*values))
            if name in ("StatefulSet/caracal-attention", "StatefulSet/caracal-expert")
        }
        assert given["StatefulSet/caracal-attention"]["CARACAL_LINK"] == link
        for name in ("CARACAL_DISPATCH_DTYPE", "CARACAL_KV_DTYPE"):
            assert [env.get(name) for env in given.values()] == [dtype, dtype]
        port = given["StatefulSet/caracal-expert"].get("CARACAL_NATIVE_PORT")
        assert port == ("50053" if link in ("native", "") else None)


@pytest.mark.parametrize("value", ["auto", "none"])
def test_generation_config_is_set_on_routers(chart: Chart, value: str) -> None:
    given = {
        name: environment(spec["containers"][0]).get("CARACAL_GENERATION_CONFIG", {}).get("value")
        for name, spec in pod_specs(chart.render(f"model.generationConfig={value}"))
        if "caracal-" in name
    }
    assert {name for name, found in given.items() if found} == {"Deployment/caracal-router"}
    assert given["Deployment/caracal-router"] == value


def test_origins_of_web_pages_are_set_on_routers(chart: Chart) -> None:
    for value in ("", "https://chat.example.org", "*"):
        specs = dict(pod_specs(chart.render(f"router.corsOrigins={value}")))
        given = environment(specs["Deployment/caracal-router"]["containers"][0]).get("CARACAL_CORS_ORIGINS", {})
        assert given.get("value", "") == value


def test_proxies_are_named_to_routers(chart: Chart) -> None:
    for values, named in (((), None), (("router.trustedProxies={10.42.0.0/16,fd00::1}",), "10.42.0.0/16,fd00::1")):
        specs = dict(pod_specs(chart.render(*values)))
        given = {name: environment(spec["containers"][0]).get("FORWARDED_ALLOW_IPS") for name, spec in specs.items()}
        assert {entry["value"] for entry in given.values() if entry} == ({named} if named else set())
        assert (given["Deployment/caracal-router"] is None) == (named is None)


def test_each_router_has_a_record_of_its_own(chart: Chart) -> None:
    def given(*values: str) -> list[str]:
        specs = dict(pod_specs(chart.render(*values)))
        found = environment(specs["Deployment/caracal-router"]["containers"][0])
        names = list(found)
        assert "CARACAL_RECORD" not in names or names.index("POD_NAME") < names.index("CARACAL_RECORD")
        return [found["CARACAL_RECORD"]["value"]] if "CARACAL_RECORD" in names else []

    assert given() == []
    assert given("router.record=/records/$(POD_NAME).jsonl") == ["/records/$(POD_NAME).jsonl"]


def test_the_console_shows_the_command_of_this_release(chart: Chart) -> None:
    def given(value: str) -> dict[str, str]:
        specs = dict(pod_specs(chart.render(f"router.console={value}")))
        variables = environment(specs["Deployment/caracal-router"]["containers"][0])
        return {name: entry.get("value", "") for name, entry in variables.items()}

    command = given("true")["CARACAL_CONSOLE_SCALE_COMMAND"]
    assert command == "kubectl -n caracal scale statefulset/caracal-ROLE --replicas=COUNT"
    assert "CARACAL_CONSOLE" not in given("true")
    assert given("false")["CARACAL_CONSOLE"] == "0"
    assert "CARACAL_CONSOLE_SCALE_COMMAND" not in given("false")


def test_no_variable_is_set_twice(chart: Chart) -> None:
    for name, spec in pod_specs(chart.render(*EVERYTHING, NUMBERS)):
        for container in spec["containers"]:
            names = [entry["name"] for entry in container.get("env", [])]
            assert len(names) == len(set(names)), name
