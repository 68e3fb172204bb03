"""What decides in a simulated cluster is what decides in a real one."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import sys
from pathlib import Path
from types import FrameType, ModuleType

import pytest
from support.module_graph import below, imports
from support.small_simulation import KIND, deployment, scenario

from services.attention_worker import hint_pace
from services.attention_worker.engine import pages, scheduler, step_cost
from services.attention_worker.migration import estimate, limits
from services.expert_worker import queue_time
from services.prefixes import page_filter, page_names
from services.router.dispatch import call_latency, retry, suspects
from services.router.placement import balance_budget, change, plan, tables, worker_registry
from services.router.requests import (
    admission,
    attention_workers,
    failover,
    fair_queue,
    prefix_hints,
    prefix_lookup,
    progress,
    silent_workers,
    stall_detector,
    worker_capacity,
    worker_choice,
)
from services.router.requests import generation as answers
from services.simulator import (
    attention,
    cluster,
    expert_lateness,
    expert_queue,
    expert_registry,
    expert_retry,
    expert_side,
    generation,
    leader,
    page_fetches,
    prefix_reports,
    router,
    steps_alike,
    watch,
)
from services.simulator.autoscaler import Scaling
from services.simulator.cluster import SimulatedCluster
from services.simulator.conversations import Conversations
from services.simulator.faults import Fault
from services.simulator.routing import Routing
from services.simulator.simulation import Scenario, play
from services.simulator.traffic import Arrivals, Phase
from services.simulator.virtual_time import NothingLeft, VirtualLoop, run

REPO = Path(__file__).resolve().parents[2]
POLICIES: list[tuple[ModuleType, ModuleType, set[str]]] = [
    (attention, scheduler, {"Scheduler"}),
    (attention, pages, {"PagePool"}),
    (router, admission, {"Admission"}),
    (router, worker_choice, {"choose_worker"}),
    (router, prefix_hints, {"PrefixHints"}),
    (router, prefix_lookup, {"PrefixLookup"}),
    (prefix_reports, hint_pace, {"HintPace"}),
    (prefix_reports, page_filter, {"PageFilter"}),
    (generation, page_names, {"PageNames"}),
    (router, progress, {"GenerationProgress"}),
    (router, failover, {"recover"}),
    (watch, stall_detector, {"StallDetector"}),
    (expert_lateness, call_latency, {"Latencies", "HedgeBudget"}),
    (expert_side, suspects, {"Suspects"}),
    (expert_registry, worker_registry, {"WorkerRegistry"}),
    (page_fetches, estimate, {"TransferRate", "compute_s", "too_slow"}),
    (expert_retry, retry, {"choose_retry", "record_failure"}),
    (leader, plan, {"make_plan"}),
    (leader, balance_budget, {"BalanceBudget"}),
    (attention, step_cost, {"Work"}),
    (steps_alike, step_cost, {"StepCost"}),
    (page_fetches, limits, {"AT_ONCE", "HANDOVER_S", "INSERT_BYTES", "UNASKED_S"}),
    (router, worker_capacity, {"capacity_of"}),
    (router, attention_workers, {"HOLD_S"}),
    (router, answers, {"FIRST_WORKER_S"}),
    (cluster, attention_workers, {"reading_pause_s", "REFRESH_S", "HINTS_S", "LOOK_S"}),
    (watch, silent_workers, {"StallTimeouts"}),
    (expert_lateness, suspects, {"Suspects"}),
    (expert_queue, queue_time, {"QueueTimes"}),
    (leader, change, {"gains"}),
    (leader, tables, {"to_table"}),
]
# What else comes from the packages that decide: data, and what makes names of it.
DATA = {
    "AdmissionLimits", "AdmissionMetrics", "AttemptFailed", "AttentionWorkerView", "BadLine", "Caller", "CannotFit",
    "Capacity", "Chunk", "Floats", "HedgeOptions", "Inputs", "Load", "PageHint", "Plan", "Recorded", "Request",
    "RouterError", "Sequence", "Shape", "TableView", "Visit", "WorkerRecord", "WorkerUnavailable", "inputs_of",
    "parse_line", "root_name", "size_of",
}  # fmt: skip
DECIDE = ("services.router", "services.attention_worker", "services.expert_worker", "services.prefixes")


@pytest.mark.parametrize(("here", "there", "names"), POLICIES)
def test_policies_are_imported_and_not_made_again(here: ModuleType, there: ModuleType, names: set[str]) -> None:
    assert all(vars(here)[name] is vars(there)[name] for name in names)


def test_whatever_is_imported_from_where_decisions_are_made_is_among_these() -> None:
    known = {(here.__name__, there.__name__, name) for here, there, names in POLICIES for name in names}
    seen = set()
    for module in below("services.simulator"):
        source = Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(DECIDE):
                there = importlib.import_module(str(node.module))
                names = {each.name for each in node.names if callable(getattr(there, each.name))}
                seen |= {(module, node.module, name) for name in names - DATA}
    elsewhere = {(there, name) for _, there, name in known}
    assert not {one for one in seen if one[1:] not in elsewhere}


def documented() -> set[str]:
    """The files that docs/simulator.md says are real in it; a bare name is in the folder of the one before it."""
    text = (REPO / "docs" / "simulator.md").read_text(encoding="utf-8")
    table = text[text.index("## What is real in it") : text.index("They run as they are")]
    found, folder = set(), ""
    for name in re.findall(r"`([a-z_/]+\.py)`", table):
        path = name if "/" in name else f"{folder}/{name}"
        if not path.startswith("services/simulator/"):
            folder = path.rpartition("/")[0]
            found.add(path)
    return found


def eventful() -> Scenario:
    """Conversations, and each fault that some policy answers, in a small cluster."""
    opening = Arrivals(phases=[Phase(0.0, 4.0)], seconds=45.0, kind=KIND, callers=20)
    talks = Conversations(opening=opening, turns=2.0, pause_s=3.0, systems=2, system_tokens=64)
    faults = [
        Fault(at=4.0, kind="attention pod stops", ordinal=0, seconds=3.0),
        Fault(at=9.0, kind="expert pod stops", ordinal=1, seconds=1.0),
        Fault(at=14.0, kind="attention upgrade", partition=2),
        Fault(at=30.0, kind="expert pod dies", ordinal=2),
        Fault(at=34.0, kind="attention pod dies", ordinal=1),
    ]
    return scenario(
        arrivals=talks.generate,
        seconds=45.0,
        faults=faults,
        routing=Routing(exponent=1.2),
        scalings={"expert": Scaling(least=4, most=5, target=1e6)},
        deployment={"replicas": 0, "extra": 2, "balance_gb_per_minute": 10.0, "page_size": 16, "pages": 200},
    )


def test_each_file_that_the_document_names_decides_something() -> None:
    files = documented()
    assert len(files) > 20
    constants = {
        "services/attention_worker/migration/limits.py": page_fetches,
        "services/router/requests/generation.py": router,
    }
    called: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        played = play(eventful(), 1)
    finally:
        sys.setprofile(None)
    assert played.migrated + played.not_migrated > 0
    there = {path for path in files if str(REPO / path) in called}
    assert there | constants.keys() >= files
    for path, module in constants.items():
        assert path.removesuffix(".py").replace("/", ".") in imports(module.__name__)


def test_a_cluster_has_them_and_their_clock_is_virtual() -> None:
    async def main(loop: VirtualLoop) -> None:
        simulated = SimulatedCluster(deployment(), Routing(), loop, 1)
        for each in simulated.routers:
            assert isinstance(each.admission._queue, fair_queue.FairQueue)
            assert type(each.watch._stalls) is stall_detector.StallDetector
            assert type(each._prefixes) is prefix_hints.PrefixHints
            assert each.admission.now() == loop.time() == 0.0
        assert type(simulated.experts._registry._registry) is worker_registry.WorkerRegistry
        assert type(simulated.experts._suspects) is suspects.Suspects
        assert {type(worker.scheduler) for worker in simulated.attention.workers.values()} == {scheduler.Scheduler}
        await asyncio.sleep(100.0)
        assert simulated.routers[0].admission.now() == pytest.approx(100.0)

    run(main)


def test_timers_come_in_their_order_and_who_waits_for_nothing_is_noticed() -> None:
    came: list[float] = []

    async def main(loop: VirtualLoop) -> None:
        for at in (5.0, 1.0, 3.0):
            loop.call_at(at, came.append, at)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4.0):
                await asyncio.Event().wait()
        assert loop.time() == pytest.approx(4.0)
        await asyncio.sleep(2.0)

    run(main)
    assert came == [1.0, 3.0, 5.0]

    async def never(_: VirtualLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft):
        run(never)
