"""The cluster that studies are about: LongCat-Flash-Chat in fp8 on H800, experts apart, and an hour of its life."""

from __future__ import annotations

from typing import Any

from services.attention_worker.migration.limits import HANDOVER_S
from services.cli.planning.profiles import device, link
from services.expert_worker.memory import PERCENT
from services.planner.families import FLASH_CHAT
from services.planner.memory import experts_bytes, on_device
from services.planner.serving import Serving
from services.planner.traffic import Slo
from services.router.settings import RouterSettings
from services.simulator.conversations import Conversations
from services.simulator.deployment import Deployment
from services.simulator.faults import Fault
from services.simulator.routing import Routing
from services.simulator.simulation import Scenario
from services.simulator.traffic import KINDS, Arrivals, Kind, Lengths, Phase

GPU, LINK = "h800", "infiniband"
SERVING = Serving(deduplicated=True)
SLO = Slo(ttft_s=5.0, itl_s=0.05)
TURNS, PAUSE_S, SYSTEMS, SYSTEM_TOKENS = 4.0, 20.0, 20, 512  # of conversations: assumed
TURN = Kind(prompt=Lengths(mean=200, median=120, most=4000), answer=KINDS["conversation"].answer, source="assumed")
UPGRADES = 0.60  # of the hour, when they begin
DRAIN_S = HANDOVER_S  # that a pod may take to drain before it goes
SKEW = 0.4  # exponent of the Zipf law: the hottest of 512 experts has 7 times the rows of the mean one


def deployment(attention: int, experts: int, wire: str = LINK, **changes: Any) -> Deployment:
    """A cluster whose routers have their default settings, but for the changes."""
    one = device(GPU)
    pages = on_device(FLASH_CHAT, SERVING, one.memory_bytes, 0.0).pages
    fitting = one.memory_bytes * PERCENT / 100 / (experts_bytes(FLASH_CHAT, 1.0, SERVING) / FLASH_CHAT.layers)
    given: dict[str, Any] = {
        "shape": FLASH_CHAT,
        "device": one,
        "expert_device": one,
        "link": link(wire),
        "serving": SERVING,
        "attention": attention,
        "experts": experts,
        "pages": pages,
        "routers": 3,
        "replicas": RouterSettings.replicas,
        "extra": RouterSettings.redundant_experts,
        "balance_gb_per_minute": RouterSettings.rebalance_gb_per_minute,
        "fitting": int(fitting),
    }
    return Deployment(**given | changes)


def partitions(shaped: Deployment, seconds: float) -> tuple[int, int]:
    """From which ordinals on attention and expert pods can be upgraded in so many seconds, one after the other.

    All of either role would take longer than what is left of the hour.
    """
    timing = shaped.timing
    expert_s = DRAIN_S + timing.pod_s + timing.drain_s
    attention_s = expert_s + timing.attention_load_s
    upgraded = (max(1, int(seconds / each_s)) for each_s in (attention_s, expert_s))
    attention, experts = (
        max(0, pods - count) for pods, count in zip((shaped.attention, shaped.experts), upgraded, strict=True)
    )
    return attention, experts


def hour(seconds: float, rate: float, *, conversations: bool = False) -> Scenario:
    """What may happen in an hour, at parts of `seconds`: a flash crowd, deaths, slow links, and rolling upgrades of as
    many pods of both roles as there is time for.

    With `conversations` about as many requests are turns of them, and prompts are cached.
    """
    shaped = deployment(64, 128, replicas=2, extra=16, balance_gb_per_minute=20.0)
    attention, experts = partitions(shaped, (1 - UPGRADES) * seconds)
    crowd = Phase(0.25 * seconds, 2 * rate), Phase(0.30 * seconds, rate)
    faults = [
        Fault(at=0.10 * seconds, kind="expert pod dies", ordinal=77),
        Fault(at=0.15 * seconds, kind="attention pod dies", ordinal=7),
        Fault(at=0.20 * seconds, kind="slow link", ordinal=3, times=4.0, seconds=60.0),
        Fault(at=0.40 * seconds, kind="expert node lost", ordinal=2),
        Fault(at=0.45 * seconds, kind="attention node lost", ordinal=1),
        Fault(at=0.50 * seconds, kind="slow expert", ordinal=9, times=2.0, seconds=300.0),
        Fault(at=0.55 * seconds, kind="router dies", ordinal=1),
        Fault(at=UPGRADES * seconds, kind="attention upgrade", partition=attention),
        Fault(at=UPGRADES * seconds, kind="expert upgrade", partition=experts),
    ]
    arrivals = Arrivals(phases=[Phase(0.0, rate), *crowd], seconds=seconds, kind=KINDS["conversation"])
    generate = arrivals.generate
    if conversations:
        slower = [Phase(phase.start, phase.rate / TURNS) for phase in arrivals.phases]
        opening = Arrivals(phases=slower, seconds=seconds, kind=TURN)
        talks = Conversations(
            opening=opening, turns=TURNS, pause_s=PAUSE_S, systems=SYSTEMS, system_tokens=SYSTEM_TOKENS
        )
        generate = talks.generate
    return Scenario(
        deployment=shaped,
        arrivals=generate,
        seconds=seconds,
        routing=Routing(exponent=SKEW, drift_s=seconds / 2),
        faults=faults,
    )
