"""Settings of the expert worker."""

from __future__ import annotations

from dataclasses import dataclass

from services.process.settings import WorkerSettings, port_setting, setting
from services.security.identity import EXPERT


@dataclass(frozen=True, kw_only=True)
class ExpertSettings(WorkerSettings):
    """One expert worker."""

    role = EXPERT

    capacity: int = setting(
        "experts this worker may load, over all layers, one in 64 more while it exchanges some; 0 = any number",
        0,
        minimum=0,
    )
    max_sessions: int = setting(
        "attention workers that may be connected at once, over native sessions and over gRPC each; with "
        "CARACAL_LINK=grpc one that computes calls again counts twice",
        128,
        minimum=1,
    )
    node: str = setting(
        "name of the machine: replicas of an expert go to different ones where they are named; empty = not named", ""
    )
    zone: str = setting(
        "zone of the machine: replicas of an expert go to different ones where enough are named; empty = not named", ""
    )
    native_port: int = port_setting("port of native sessions")
    drain_timeout_s: float = setting(
        "seconds it waits after SIGTERM for its experts to be loaded elsewhere", 30.0, minimum=0
    )
