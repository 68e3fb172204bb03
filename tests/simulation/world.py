"""One deterministic world: a cluster, its clients, and the faults of a schedule."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import Random

from simulation.attention_worker import AttentionWorker
from simulation.checks import Checks, Violation
from simulation.client import Client
from simulation.expert_worker import ExpertWorker
from simulation.faults import BEGIN
from simulation.mutations import NONE, Mutation
from simulation.network import Network
from simulation.redis_model import SimulatedRedis
from simulation.router import Router
from simulation.schedule import Asked, Fault, Schedule
from simulation.streams import Streams
from simulation.timeline import Process, Timeline
from simulation.worker import Worker

from services.membership.pulse import Pulse
from services.membership.record import WorkerRecord
from services.router.placement.bare_redis import BareRedis

AFTER_S = 2.0  # that a fault may last longer than its schedule says
ANSWERS_S = 90.0  # virtual, after the last fault, in which every answer ends
AT_REST_S, LOOK_S = 30.0, 0.25  # virtual, after the last answer, in which all is given back and agreed


@dataclass(frozen=True, slots=True)
class Played:
    """What a schedule has come to: its events, and the virtual seconds. `noticed`: what processes say of
    others, by how often."""

    events: int
    seconds: float
    tokens: int
    noticed: Counter[str]


class World:
    def __init__(self, plan: Schedule, mutation: Mutation = NONE) -> None:
        self.mutation = mutation
        self.timeline = Timeline()
        self.network = Network(self.timeline, Random(plan.seed))
        self.streams = Streams(self.network)
        self.checks = Checks(mutation)
        self.noticed: Counter[str] = Counter()  # what its processes say of others, by how often
        self.redis: SimulatedRedis = SimulatedRedis(self.timeline, self.network)
        self.redis.marks_convicts = not mutation.forgets_convictions
        self.routers: dict[str, Router] = {name: Router(self, name) for name in _names("router", plan.routers)}
        self.attention: dict[str, AttentionWorker] = {
            name: AttentionWorker(self, name) for name in _names("attention", plan.attention)
        }
        self.experts = {name: ExpertWorker(self, name) for name in _names("expert", plan.experts + 1)}
        self.spare = self.experts[f"expert-{plan.experts}"]
        self.foreign = [ExpertWorker(self, "foreign-0", "class-b")]
        self.experts |= {one.name: one for one in self.foreign}
        self.clients: list[Client] = []
        for process in self.processes():
            process.start()

    def processes(self) -> list[Process]:
        """All that a cluster has, without workers that have never been started, once it has begun."""
        experts = [one for one in self.experts.values() if one.runs or one not in (self.spare, *self.foreign)]
        return [self.redis, *experts, *self.attention.values(), *self.routers.values()]

    def started_experts(self) -> dict[str, ExpertWorker]:
        return {name: one for name, one in self.experts.items() if one.runs}

    def worker(self, record: WorkerRecord) -> Worker:
        found: dict[str, ExpertWorker] | dict[str, AttentionWorker]
        found = self.experts if record.role == "expert" else self.attention
        return found[record.worker_id]

    def kill(self, process: Process) -> None:
        """Ends a run at once; the kernel ends its connections."""
        if not process.alive:
            return
        if isinstance(process, AttentionWorker):
            self.checks.died(process.boot_id)
        process.kill()
        self.network.died(process.boot_id)
        self.streams.died(process)

    def ask(self, asked: Asked) -> None:
        """A new client begins."""
        client = Client(self, len(self.clients), asked.prompt, asked.max_tokens, asked.leaves_after)
        self.clients.append(client)
        client.start()

    def begin(self, fault: Fault) -> None:
        """A fault begins; it ends by itself."""
        end = BEGIN[fault.kind](self, fault)
        self.timeline.after(fault.seconds, end)
        over_at = self.timeline.now + fault.seconds + AFTER_S
        self.checks.faults_until = max(self.checks.faults_until, over_at)

    def come_to_rest(self) -> None:
        """Runs on without faults until every answer has ended and the cluster is at rest. Raises Violation."""
        until = self.timeline.now + ANSWERS_S
        self.timeline.run(until, lambda: all(client.over for client in self.clients))
        if waiting := [client.name for client in self.clients if not client.over]:
            raise Violation("no lost ending", f"{waiting} still wait {ANSWERS_S:g} s after the last fault")
        until, why = self.timeline.now + AT_REST_S, "it has not begun"
        while why and self.timeline.now < until:
            self.timeline.run(self.timeline.now + LOOK_S)
            why = self.checks.unsettled(self)
        if why:
            raise Violation("all is given back and agreed", why)

    @property
    def begins_in(self) -> float:
        """Seconds from the start until a leader may begin: schedules count from then on."""
        bare = (self.mutation.bare_redis or BareRedis)()
        bare.saw(Pulse(leads=True, epoch=0, term=0, changes=0, bare=True), self.timeline.now)
        return bare.wait_left(self.timeline.now)

    def close(self) -> None:
        """Ends what still runs."""
        for router in self.routers.values():
            router.kill()

    @property
    def played(self) -> Played:
        tokens = sum(len(client.ids) for client in self.clients)
        return Played(self.timeline.events, self.timeline.now, tokens, self.noticed)


def _names(role: str, count: int) -> list[str]:
    return [f"{role}-{number}" for number in range(count)]


def play(plan: Schedule, mutation: Mutation = NONE) -> Played:
    """Plays a schedule to its end. Raises Violation."""
    world = World(plan, mutation)
    begun_at = world.begins_in
    for asked in plan.asked:
        world.timeline.at(begun_at + asked.at, partial(world.ask, asked))
    for fault in plan.faults:
        world.timeline.at(begun_at + fault.at, partial(world.begin, fault))
    ends = [asked.at for asked in plan.asked] + [fault.at + fault.seconds for fault in plan.faults]
    try:
        world.timeline.run(begun_at + max(ends, default=0.0) + 0.01)
        world.come_to_rest()
        return world.played
    finally:
        world.close()
