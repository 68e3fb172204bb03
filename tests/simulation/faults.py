"""What each kind of fault does to a world, and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from simulation.router import DRAIN_S
from simulation.schedule import FAULTS, Fault
from simulation.timeline import Act, Process
from simulation.worker import Worker

from services.router.placement.leader import LEADER_LEASE_MS

if TYPE_CHECKING:
    from simulation.world import World

SLOWEST_S = 0.3
JUMP_S = 3600.0
MOST_FLIPS = 12
RESETS_S, MOST_RESETS = 0.012, 8
REDIS_JUMP_S = 8.0
LOST_S = 1.5  # of writes that a failover may lose

P = TypeVar("P", bound=Process)
Begin = Callable[["World", Fault], Act]


def _one(processes: Mapping[str, P], fault: Fault) -> P:
    names = sorted(processes)
    return processes[names[fault.target % len(names)]]


def _two(world: World, fault: Fault) -> tuple[str, str]:
    names = sorted(process.name for process in world.processes())
    one = names[fault.target % len(names)]
    others = [name for name in names if name != one]
    return one, others[fault.other % len(others)]


def _killed(world: World, process: Process) -> Act:
    world.kill(process)
    return process.start


def _stopped(process: Process) -> Act:
    process.stop()
    return process.go_on


def _freeze(world: World, fault: Fault) -> Act:
    worker = _one(world.attention, fault)
    worker.freeze(True)
    boot_id = worker.boot_id
    return lambda: worker.freeze(False) if worker.boot_id == boot_id else None


def _partition(world: World, fault: Fault) -> Act:
    one, other = _two(world, fault)
    ways = ((one, other),) if fault.kind == "one way" else ((one, other), (other, one))
    world.network.block(*ways)
    return lambda: world.network.unblock(*ways)


def _without_redis(world: World, fault: Fault) -> Act:
    """A router does not reach Redis for longer than a leader's lease: one that led does not know that it has lapsed."""
    name = _one(world.routers, fault).name
    ways = ((name, world.redis.name), (world.redis.name, name))
    world.network.block(*ways)

    def end() -> None:
        world.timeline.after(LEADER_LEASE_MS / 1000, lambda: world.network.unblock(*ways))

    return end


def _reset(world: World, fault: Fault) -> Act:
    """Cuts all streams of a process, some times one soon after the other."""
    name = _two(world, fault)[0]

    def again(times: int) -> None:
        for stream in world.streams.of(name):
            stream.cut()
        if times:
            world.timeline.after(RESETS_S, lambda: again(times - 1))

    again(fault.other % MOST_RESETS)
    return lambda: None


def _slow(world: World, fault: Fault) -> Act:
    name = _two(world, fault)[0]
    world.network.slow[name] = abs(fault.amount) * SLOWEST_S

    def end() -> None:
        world.network.slow.pop(name, None)

    return end


def _flips(world: World, fault: Fault) -> Act:
    """Bits flip in messages from or to a process: often enough, perhaps, that its link is given up."""
    name = _two(world, fault)[0]
    world.network.flips[name] = 1 + fault.other % MOST_FLIPS

    def end() -> None:
        world.network.flips.pop(name, None)

    return end


def _convict(world: World, worker: Worker) -> Act:
    """Somebody finds that this run computes wrongly. It stays where it is."""
    boot_id = worker.boot_id
    world.redis.ask(world.redis, lambda redis: redis.convict(boot_id), lambda _: None)
    return lambda: None


def _drain_router(world: World, fault: Fault) -> Act:
    """Drains one that is not the last; it comes back when it has gone."""
    staying = [one for one in world.routers.values() if one.alive and not one.draining]
    if len(staying) < 2:
        return lambda: None
    router = staying[fault.target % len(staying)]
    router.drain()
    return lambda: world.timeline.after(DRAIN_S, router.start)


def _twice(world: World, fault: Fault) -> Act:
    name = _two(world, fault)[0]
    world.network.twice.add(name)
    return lambda: world.network.twice.discard(name)


def _read_only(world: World, _: Fault) -> Act:
    world.redis.refuses_writes = True

    def end() -> None:
        world.redis.refuses_writes = False

    return end


def _failover(world: World, fault: Fault) -> Act:
    world.redis.lose(abs(fault.amount) * LOST_S)
    return lambda: None


def _wiped(world: World, _: Fault) -> Act:
    world.redis.wipe()
    return lambda: None


def _redis_clock(world: World, fault: Fault) -> Act:
    world.redis.clock_offset += fault.amount * REDIS_JUMP_S
    return lambda: None


def _clock(world: World, fault: Fault) -> Act:
    process = _one(world.routers, fault)
    process.clock_offset += fault.amount * JUMP_S
    return lambda: None


def _drain(world: World, processes: Sequence[Process], fault: Fault, drain: Callable[[Process], None]) -> Act:
    """Drains one that is not the last; what has gone comes back at the end."""
    staying = [one for one in processes if one.alive and not getattr(one, "draining", False)]
    if len(staying) < 2:
        return lambda: None
    one = staying[fault.target % len(staying)]
    drain(one)
    return one.start


def _drain_attention(world: World, fault: Fault) -> Act:
    workers = list(world.attention.values())
    return _drain(world, workers, fault, lambda one: world.attention[one.name].drain())


def _drain_expert(world: World, fault: Fault) -> Act:
    workers = [one for one in world.experts.values() if one not in world.foreign]
    return _drain(world, workers, fault, lambda one: world.experts[one.name].drain())


def _add_expert(world: World, _: Fault) -> Act:
    world.spare.start()
    return lambda: None


def _add_foreign(world: World, _: Fault) -> Act:
    for one in world.foreign:
        one.start()
    return lambda: None


BEGIN: dict[str, Begin] = {
    "kill attention": lambda world, fault: _killed(world, _one(world.attention, fault)),
    "kill expert": lambda world, fault: _killed(world, _one(world.started_experts(), fault)),
    "kill router": lambda world, fault: _killed(world, _one(world.routers, fault)),
    "stop attention": lambda world, fault: _stopped(_one(world.attention, fault)),
    "stop expert": lambda world, fault: _stopped(_one(world.started_experts(), fault)),
    "stop router": lambda world, fault: _stopped(_one(world.routers, fault)),
    "freeze attention": _freeze,
    "partition": _partition,
    "one way": _partition,
    "reset": _reset,
    "slow": _slow,
    "twice": _twice,
    "router without redis": _without_redis,
    "redis down": lambda world, _: _killed(world, world.redis),
    "redis stopped": lambda world, _: _stopped(world.redis),
    "redis read-only": _read_only,
    "redis failover": _failover,
    "redis wiped": _wiped,
    "redis clock": _redis_clock,
    "clock": _clock,
    "drain attention": _drain_attention,
    "drain expert": _drain_expert,
    "add expert": _add_expert,
    "add foreign expert": _add_foreign,
    "flips": _flips,
    "convict attention": lambda world, fault: _convict(world, _one(world.attention, fault)),
    "convict expert": lambda world, fault: _convict(world, _one(world.started_experts(), fault)),
    "drain router": _drain_router,
}
assert set(BEGIN) == set(FAULTS)
