"""No import leans the wrong way. docs/architecture.md says why each of these lines is drawn."""

from __future__ import annotations

import pytest
from support.module_graph import below, circles, imports, modules, reached

HTTP = {"fastapi", "starlette", "uvicorn", "http", "h11"}
NETWORK = {"grpc", "socket", "redis", "asyncio", "http", "urllib"}
IO = NETWORK | {"torch", "pathlib", "time", "subprocess", "threading"}

# (modules, what they must not reach when they are imported)
NEVER_REACHED = [
    (
        (
            "services.router.console",
            "services.router.gateway",
            "services.router.requests",
            "services.router.placement",
            "services.router.recording",
        ),
        {"torch", "transformers"},
    ),
    (("services.router.servers", "services.router.settings", "services.router.__main__"), {"torch", "transformers"}),
    (
        ("services.membership", "services.process", "services.security", "services.cli.app", "services.local.settings"),
        {"torch"},
    ),
    (
        tuple(
            f"services.weights.{name}"
            for name in (
                "address",
                "digests",
                "fetch",
                "folder",
                "hub",
                "manifest",
                "object_store",
                "slices",
                "waiting",
                "web",
                "authorities",
                "pods",
                "prune",
            )
        ),
        {"torch"},
    ),
    (("services.router.dispatch", "services.transport"), HTTP),
    (("services.simulator",), {"torch", "transformers"} | HTTP),
    (("services.simulator.autoscaler", "services.simulator.expert_retry"), IO),
    (("services.attention_worker.model",), {"grpc", "socket", "redis", "http"}),
    (
        (
            "services.router.placement.balance",
            "services.router.placement.balance_budget",
            "services.router.placement.digests",
            "services.router.placement.join_backoffs",
            "services.router.placement.generations",
            "services.router.placement.policy",
            "services.router.placement.plan",
            "services.router.placement.table_view",
            "services.router.placement.capacity",
            "services.router.requests.progress",
            "services.router.requests.probe_times",
            "services.router.requests.stops",
            "services.prefixes",
            "services.router.requests.prefix_hints",
            "services.router.requests.worker_choice",
            "services.router.requests.silent_workers",
            "services.router.placement.terms",
            "services.router.dispatch.retry",
            "services.router.dispatch.call_latency",
            "services.router.dispatch.suspects",
            "services.membership.strikes",
            "services.router.placement.room",
            "services.router.recording.lines",
            "services.planner",
            "services.attention_worker.engine.scheduler",
            "services.attention_worker.engine.step_cost",
            "services.attention_worker.engine.host_tier",
            "services.attention_worker.engine.pages",
            "services.attention_worker.engine.sequence",
            "services.attention_worker.hint_pace",
            "services.certificates.renewal",
        ),
        IO,
    ),
]

# (who, what it must not import itself, in functions neither)
NEVER_IMPORTED = [
    ("services", ("bench", "tests", "support", "k8s", "training")),
    ("services.attention_worker", ("services.local", "services.cli", "services.expert_worker")),
    ("services.attention_worker", ("services.router.gateway", "services.router.requests", "services.router.placement")),
    ("services.expert_worker", ("services.local", "services.cli", "services.attention_worker", "services.router")),
    ("services.router", ("services.local", "services.cli", "services.attention_worker", "services.expert_worker")),
    ("services.router.dispatch", ("services.router.gateway", "services.router.requests", "services.router.placement")),
    ("services.router.requests", ("services.router.gateway", "services.router.placement", "services.router.dispatch")),
    ("services.router.placement", ("services.router.gateway", "services.router.requests", "services.router.dispatch")),
    ("services.router.recording", ("services.router.gateway", "services.router.requests", "services.router.placement")),
    ("services.checkpoint", ("services.transport", "services.router", "services.membership", "services.process")),
    ("services.checkpoint", ("services.weights",)),
    ("services.weights", ("services.router", "services.membership", "services.transport", "services.local")),
    ("services.weights", ("services.attention_worker", "services.expert_worker", "services.cli")),
    ("services.router", ("services.weights",)),
    ("services.transport", ("services.router", "services.attention_worker", "services.expert_worker")),
    ("services.membership", ("services.router", "services.attention_worker", "services.expert_worker", "services.cli")),
    ("services.process", ("services.router", "services.attention_worker", "services.expert_worker", "services.cli")),
    ("services.security", ("services.router", "services.membership", "services.process", "services.transport")),
    ("services.security", ("services.attention_worker", "services.expert_worker", "services.cli", "services.local")),
    ("services.certificates", ("services.router", "services.membership", "services.transport", "services.local")),
    ("services.replicas", ("services.router", "services.membership", "services.transport", "services.local")),
    ("services.router", ("services.certificates", "services.replicas")),
    ("services.attention_worker", ("services.certificates",)),
    ("services.expert_worker", ("services.certificates",)),
    *(
        (f"services.{name}", ("services.simulator",))
        for name in ("router", "attention_worker", "expert_worker", "planner")
    ),
    ("services.simulator", ("services.cli", "services.local", "services.router.gateway")),
    ("caracal_kernels", ("services", "bench", "training")),
    ("training", ("services.router", "services.attention_worker", "services.expert_worker", "bench")),
]
# `caracal bench` finds bench/ beside the checkout, and says so when it is not there.
# So does `caracal plan --calibrate`.
EXCEPTIONS = {("services.cli.app", "bench.main"), ("services.cli.commands.plan", "bench.planner.calibrate")}


@pytest.mark.parametrize(("packages", "forbidden"), NEVER_REACHED, ids=lambda value: min(value))
def test_importing_a_package_brings_nothing_that_it_must_not_know(
    packages: tuple[str, ...], forbidden: set[str]
) -> None:
    found = {name: sorted(reached(name) & forbidden) for name in below(*packages)}
    assert found, f"no modules in {packages}"
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(("package", "others"), NEVER_IMPORTED)
def test_a_package_does_not_import(package: str, others: tuple[str, ...]) -> None:
    wrong = [
        (name, other)
        for name in below(package)
        for other in imports(name)
        if any(other == one or other.startswith(one + ".") for one in others) and (name, other) not in EXCEPTIONS
    ]
    assert not wrong


def test_no_circle_among_modules() -> None:
    assert not circles()


def test_the_graph_is_read_at_all() -> None:
    assert len(modules()) > 250
    assert "torch" in reached("services.expert_worker.experts")
    assert "services.router.placement.policy" in imports("services.router.placement.plan")
