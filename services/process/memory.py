"""How much memory this process can still allocate."""

from __future__ import annotations

from pathlib import Path

CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def host_free() -> int:
    """The bytes that this process can still allocate: the machine's, or its cgroup's where that has less."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    free = found["MemAvailable"]
    for root, limit, used in CGROUPS:
        try:
            limited, taken = (Path(root, name).read_text(encoding="ascii").strip() for name in (limit, used))
        except OSError:
            continue
        if limited != "max":
            free = min(free, max(0, int(limited) - int(taken)))
    return free
