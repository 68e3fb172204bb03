"""What is measured with one number of workers: a start, idleness, a join, a drain, a death, and a new leader."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.control.processes import ControlPlane, HealthProbe, Meter, control_plane
from services.cli.gateway_client import ask_gateway
from services.cli.status import render

PAUSE_S = 1.5
RATE = 500.0  # assignments per second of the hottest expert, once there is a load
PAGES = ("/cluster", "/console/api/state", "/metrics")
PAGE_ROUNDS = 7


def measure(model: Path, directory: Path, size: tuple[int, int], *, replicas: int, idle_s: float) -> dict[str, Any]:
    """One router with so many (expert, attention) workers."""
    experts, attention = size
    with control_plane(model, directory, 1, replicas) as control:
        found: dict[str, Any] = {"experts": experts, "attention": attention}
        control.fakes.ask(join=["attention", attention], wait=False)
        found["start"] = _watched(control, lambda: control.fakes.ask(join=["expert", experts]))
        time.sleep(PAUSE_S)
        found["idle"] = _idle(control, idle_s)
        found["join"] = _watched(control, lambda: control.fakes.ask(join=["expert", 1]))
        time.sleep(PAUSE_S)
        control.fakes.ask(rate=RATE, wait=False)
        found["rebalance"] = _watched(control, lambda: time.sleep(2 * idle_s)) | control.fakes.ask()
        found["drain"] = _watched(control, lambda: control.fakes.ask(drain="expert-0"))
        time.sleep(PAUSE_S)
        control.fakes.ask(kill="expert-0", wait=False)
        found["death"] = _watched(control, lambda: control.fakes.ask(kill="expert-1"))
        found["router"] = control.resources(control.routers[0])
        found["pages"] = _pages(control)
    return found


def measure_leaders(
    model: Path, directory: Path, size: tuple[int, int], *, routers: int, replicas: int, idle_s: float
) -> dict[str, Any]:
    """Several routers: what each costs idle, and how long it takes until another leads after a kill."""
    experts, attention = size
    with control_plane(model, directory, routers, replicas) as control:
        control.fakes.ask(join=["attention", attention], wait=False)
        control.fakes.ask(join=["expert", experts])
        time.sleep(PAUSE_S)
        found: dict[str, Any] = {"experts": experts, "attention": attention, "routers": routers}
        found["idle"] = _idle(control, idle_s)
        gone = control.leader()
        control.routers.remove(gone)
        began_s = time.perf_counter()
        gone.child.kill()
        found["new_leader"] = _watched(control, lambda: _await_leader(control))
        found["new_leader"]["seconds"] = {"leads": time.perf_counter() - began_s}
        found["join"] = _watched(control, lambda: control.fakes.ask(join=["expert", 1]))
    return found


def _idle(control: ControlPlane, seconds: float) -> dict[str, Any]:
    """The cost of doing nothing; then, beside the probe, which costs the router more than that, what it sees."""
    meter = Meter(control)
    time.sleep(seconds)
    cost = meter.result()
    return _watched(control, lambda: time.sleep(seconds)) | {"cost": cost}


def _watched(control: ControlPlane, work: Callable[[], Any]) -> dict[str, Any]:
    """What the work answers, with /health meanwhile, the loop's lag, and what it cost."""
    router = control.routers[0]
    before, meter = router.lag_buckets(), Meter(control)
    with HealthProbe(router.port) as probe:
        answer = work()
    cost, after = meter.result(), router.lag_buckets()
    lag = {bucket: after[bucket] - before[bucket] for bucket in after if bucket not in ("sum", "created")}
    return (answer or {}) | {"health_ms": probe.result(), "cost": cost, "lag": lag}


def _await_leader(control: ControlPlane) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            control.leader()
            return
        except LookupError:
            time.sleep(0.02)
    raise TimeoutError("no router leads")


def _pages(control: ControlPlane) -> dict[str, Any]:
    """Medians of the time of each page, its size, and those of what `caracal status` does once it has started."""
    found: dict[str, Any] = {}
    router = control.routers[0]
    for path in PAGES:
        answers = []
        for _ in range(PAGE_ROUNDS):
            time.sleep(0.6)  # longer than an overview is kept
            answers.append(router.get(path))
        found[path] = {"ms": statistics.median(ms for ms, _ in answers), "bytes": len(answers[0][1])}
    url, shown_ms, console = f"http://127.0.0.1:{router.port}", [], Console(file=StringIO(), width=120)
    for _ in range(PAGE_ROUNDS):
        time.sleep(0.6)
        began_s = time.perf_counter()
        with console.capture() as capture:
            console.print(render(ask_gateway(url), url))
        shown_ms.append(1e3 * (time.perf_counter() - began_s))
    found["caracal status"] = {"ms": statistics.median(shown_ms), "lines": len(capture.get().splitlines())}
    return found
