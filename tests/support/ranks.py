"""Ranks of a team as forked processes of this one, connected as torchrun's are."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable

from training.distributed.team import Team, join_team, leave_team


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


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


def wait_for(children: list[int]) -> list[int]:
    """Returns exit codes; negative ones are signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
