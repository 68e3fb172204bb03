"""Ranks of a team as forked processes of this one, connected as torchrun's are."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable

import torch._inductor  # noqa: F401 - deterministic algorithms need it, and it takes seconds: once, not in each rank

from services.process.addresses import free_port
from training.distributed.team import Team, join_team, leave_team


def start_ranks(ranks: int, sharing: int | None, work: Callable[[Team], None]) -> list[int]:
    """Forks a process for each rank and returns their ids. Nothing may have computed on several threads before."""
    port, children = free_port(), []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ.update(address | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)})
            team = join_team("cpu", sharing)
            work(team)
            leave_team(team)
            code = 0
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            traceback.print_exc()
        finally:
            os._exit(code)
    return children


def wait_for(children: list[int], grace: float = 5.0) -> list[int]:
    """Returns exit codes; negative ones are signals. When one has failed, the others are ended, as torchrun does."""
    codes: dict[int, int] = {}
    deadline: float | None = None
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        if deadline is None and any(codes.values()):
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return [codes[child] for child in children]
