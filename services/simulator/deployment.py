"""What is simulated: the model, the pools, how workers are set, and how long pods and failures take."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.membership.redis import LEASE_MS
from services.planner.device import Device, Link
from services.planner.memory import experts_bytes, token_bytes
from services.planner.serving import Serving
from services.planner.shape import Shape
from services.router.dispatch.heartbeats import HEARTBEAT_S, SILENT_BEATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds that a cluster takes for what is no computation. Those of the failover protocol are its own constants."""

    pod_s: float = 30.0  # from a pod's creation to the process that can load weights
    attention_load_s: float = 20.0  # of an attention worker's weights
    expert_bytes_s: float = 2e9  # at which an expert worker loads experts
    probe_s: float = 0.002  # that an attention worker takes to answer a router's probe
    detect_s: float = 0.005  # from a process's death to the end of its connections at its peers
    silent_s: float = HEARTBEAT_S * SILENT_BEATS  # after which a session without signs of life has failed
    lease_s: float = LEASE_MS / 1000  # after which a silent worker is listed no more
    node_back_s: float = 300.0  # before pods of a machine without power start elsewhere: Kubernetes's toleration
    edge_s: float = 0.0  # of a request outside workers: HTTP, text, the way to and fro
    drain_s: float = 20.0  # that a rolling upgrade leaves between two pods, minReadySeconds included


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Pools of attention and expert workers behind routers.

    `pages` of `page_size` tokens each; `capacity` experts of an expert worker, 0 = any number; `fitting` experts fit
    the memory of its machine, 0 = unknown. `replicas` of each expert, 0 = as many as the leader chooses by these.
    `attention_cores` do what all attention workers compute, 0 = each has a device of its own.
    `balance_gb_per_minute` 0: no expert moves for its load.
    """

    shape: Shape
    device: Device
    expert_device: Device
    link: Link
    serving: Serving
    attention: int
    experts: int
    pages: int
    routers: int = 1
    replicas: int = 0
    extra: int = 0  # replicas of hot experts in a layer, beyond those
    capacity: int = 0
    fitting: int = 0
    one_machine: bool = False  # all expert workers share an address, and so what fits its memory
    attention_cores: int = 0
    page_size: int = 64
    max_running: int = 64
    max_batch_tokens: int = 4096
    max_itl_s: float = 0.1
    slowdown: float = 1.2
    queue_timeout_s: float = 30.0
    expert_wait_s: float = 30.0
    balance_gb_per_minute: float = 0.0
    pods_per_node: int = 8
    prefix_cache: bool = True  # of prompts that belong to conversations
    kv_migration: bool = True  # from workers that drain; it needs the prefix cache
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        """Raises ValueError for a model, or numbers, that the simulator knows nothing of."""
        shape = self.shape
        if shape.shared_ffn or shape.plain_layers or shape.attention.kept:
            raise ValueError(
                f"{shape.name} has shared experts, layers without experts, or sparse attention: not simulated"
            )
        if min(self.attention, self.experts, self.pages, self.routers) < 1:
            raise ValueError("a deployment has at least one router, worker of each role and page")
        if min(self.replicas, self.capacity, self.fitting, self.attention_cores) < 0:
            raise ValueError("a deployment has no negative number of replicas, experts or cores")

    @property
    def page_bytes(self) -> float:
        """Bytes of a page of the cache."""
        return self.page_size * token_bytes(self.shape, self.serving)

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert of one layer."""
        return experts_bytes(self.shape, 1.0, self.serving) / self.shape.layers
