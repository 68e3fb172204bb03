"""All kinds of faults, by name."""

from __future__ import annotations

from collections.abc import Sequence

from faults import link_faults, process_faults, redis_faults
from faults.injector import Injector
from faults.schedule import Choices

KINDS: dict[str, type[Injector]] = {
    one.kind: one
    for one in (
        process_faults.Killed,
        process_faults.RouterKilled,
        process_faults.RoleKilled,
        process_faults.Drained,
        process_faults.RouterDrained,
        process_faults.Stopped,
        process_faults.RouterStopped,
        process_faults.RoleStopped,
        process_faults.Frozen,
        process_faults.Overloaded,
        process_faults.Unplugged,
        process_faults.MachineUnplugged,
        link_faults.Delayed,
        link_faults.Throttled,
        link_faults.Blackholed,
        link_faults.OneWay,
        link_faults.Flipped,
        link_faults.Reset,
        link_faults.ClientDelayed,
        link_faults.ClientBlackholed,
        link_faults.ClientReset,
        link_faults.RedisDelayed,
        link_faults.RedisBlackholed,
        link_faults.RedisFlipped,
        link_faults.RedisReset,
        redis_faults.RedisFull,
        redis_faults.RedisReadOnly,
        redis_faults.RedisCannotSave,
        redis_faults.RedisStopped,
        redis_faults.RedisKilled,
        redis_faults.RedisLost,
        redis_faults.HostileRecords,
    )
}


def choices(names: Sequence[str], own: str, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Choices]:
    """What each kind may hit in a cluster of these nodes. `own`: the router that clients over gRPC ask."""
    return {kind: Choices(KINDS[kind].targets(names, own), KINDS[kind].lasting) for kind in kinds}
