"""How long a native session polls before it sleeps: only where a core is to spare for it."""

from __future__ import annotations

from pathlib import Path

from services.process.cores import own_cores

CGROUP_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
PERIOD_US = 100_000  # of a cgroup of version 1, unless it says otherwise


def spin_s(wanted_us: int, cores: float) -> float:
    """The seconds to poll; 0 on less than one core: there, polling takes the time from what it waits for."""
    return wanted_us / 1e6 if cores >= 1 else 0.0


def usable_cores(chosen: frozenset[int] = frozenset()) -> float:
    """The cores that a thread may use: those `chosen` for it, or its affinity; and the CPU limit of its container."""
    cores = float(len(chosen or own_cores()))
    for path in CGROUP_QUOTAS:
        try:
            quota = _quota(path.read_text().split())
        except (OSError, ValueError):
            continue
        cores = min(cores, quota)
    return cores


def _quota(words: list[str]) -> float:
    """The cores that a quota file grants. Raises ValueError for a form that is not known."""
    quota_us, period_us = words[0], words[1] if len(words) > 1 else PERIOD_US
    return float("inf") if quota_us in ("max", "-1") else float(quota_us) / float(period_us)
