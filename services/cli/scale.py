"""`caracal scale`: writes the desired counts to Redis and waits until they are reached."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.cli.cluster_redis import open_membership
from services.cli.run_state import NoCluster, RunState, find
from services.local.settings import check_count
from services.membership.desired import SCALED
from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.process.settings import InvalidSetting
from services.process.telemetry import progress

POLL_S = 0.1


def parse_counts(words: Sequence[str], check: Callable[[str, int], None] = check_count) -> dict[str, int]:
    """Parses ["expert=3"] into {"expert": 3}. Raises InvalidSetting, as `check` does for a count out of range."""
    counts: dict[str, int] = {}
    for word in words:
        role, _, number = word.partition("=")
        if role not in SCALED:
            raise InvalidSetting(f"{word!r}: scale takes {' and '.join(f'{name}=COUNT' for name in SCALED)}")
        if not re.fullmatch("-?[0-9]+", number):
            raise InvalidSetting(f"{word!r}: {number[:20]!r} is not a whole number")
        if len(number) > 9:
            raise InvalidSetting(f"{role}: {number[:20]} is too large")
        if role in counts:
            raise InvalidSetting(f"{role} is given twice")
        check(role, int(number))
        counts[role] = int(number)
    return counts


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts that were set, and after how many seconds they were reached; None where nobody waited for that."""

    counts: dict[str, int]
    seconds: float | None

    def show(self, as_json: bool) -> None:
        """Prints one line, or a JSON object."""
        if as_json:
            print(json.dumps({"counts": self.counts, "reached": self.seconds is not None, "seconds": self.seconds}))
            return
        asked = ", ".join(f"{role}={count}" for role, count in self.counts.items())
        waited = f"reached in {self.seconds:.1f} s" if self.seconds is not None else "set, without waiting"
        print(f"{asked}: {waited}")


def scale(counts: dict[str, int], wait_s: float) -> Outcome:
    """Sets the counts and waits at most `wait_s` until they are reached.

    Raises NoCluster, RedisUnavailable; InvalidSetting when they are not reached in time, or somebody else changes them.
    """
    state = find()
    if not state.redis_url:
        raise NoCluster(f"no cluster at {state.url} was started here")
    if not state.pid:
        raise NoCluster(
            "only a cluster started by `caracal up` on this machine can be scaled; on Kubernetes give --context"
        )
    seconds = asyncio.run(_scale(state, counts, wait_s))
    return Outcome(counts, seconds if wait_s else None)


async def _scale(state: RunState, counts: dict[str, int], wait_s: float) -> float:
    membership = open_membership(state)
    started = time.monotonic()
    try:
        for role, count in counts.items():
            await membership.set_desired(role, count)
        with progress("scaling") as report:
            while wait_s and not await _reached(membership, counts, report):
                desired = await membership.desired()
                for role, count in counts.items():
                    if (now := desired.get(role, count)) != count:
                        raise InvalidSetting(f"somebody else set {role}={now}: no longer waiting for {role}={count}")
                if time.monotonic() - started > wait_s:
                    raise InvalidSetting(f"not reached within {wait_s:g} s; see `caracal status`")
                await asyncio.sleep(POLL_S)
    finally:
        await membership.close()
    return time.monotonic() - started


async def _reached(membership: Membership, counts: dict[str, int], report: Callable[[int, int], None]) -> bool:
    done = total = 0
    for role, count in counts.items():
        names = {f"{role}-{n}" for n in range(count)}
        records = await membership.workers(role)
        serving = {r.worker_id for r in records if serves(r)}
        done += len(serving & names)
        total += count + len(serving - names)
    report(done, total)
    return done == total


def serves(record: WorkerRecord) -> bool:
    """Whether a worker serves."""
    return record.serving
