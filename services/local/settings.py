"""Settings of `caracal up`: each is an option of it, and most are passed on to the workers."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from services.attention_worker.settings import AttentionSettings
from services.local.cores import cores_of
from services.local.gpus import gpu_count
from services.local.model_folder import WrongModel, check_model
from services.membership.desired import MAX_WORKERS, count_violation
from services.process.addresses import CannotListen, bound_socket, loopback_of, on_this_machine
from services.process.children import import_path
from services.process.cores import format_cores, own_cores
from services.process.settings import InvalidSetting, Rule, Settings, port_setting, setting, setting_like
from services.router.settings import RouterSettings
from services.transport.native_extension import unavailable

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "models" / "caracal-tiny"


def _count_setting(help: str) -> Any:
    return setting(help, 1, minimum=1, maximum=MAX_WORKERS)


@dataclass(frozen=True, kw_only=True)
class LocalSettings(Settings):
    """A cluster on this machine. Counts are those at the start; `caracal scale` changes them later."""

    model: Path = setting("checkpoint directory", DEFAULT_MODEL)  # noqa: RUF009  a dataclass field
    host: str = setting(
        "address that the gateway listens on, like 0.0.0.0 or ::; the workers stay on loopback", "127.0.0.1"
    )
    port: int = port_setting("port of the gateway", 8000)
    admin_port: int = port_setting("port of the first router's admin routes, on loopback")
    attention: int = _count_setting("attention workers")
    expert: int = _count_setting("expert workers")
    routers: int = _count_setting("routers")
    spares: int = setting(
        "processes that have imported what workers import, and wait to take the place of one that dies or is added:"
        " 0.2 GB of memory each; 0 = none",
        1,
        minimum=0,
        maximum=MAX_WORKERS,
    )
    dtype: str = setting_like(AttentionSettings, "dtype")
    device: str = setting_like(AttentionSettings, "device")
    tp: int = setting_like(AttentionSettings, "tp")
    kv_pages: int = setting(
        "pages of an attention worker's latent cache; 0 = enough for the model's whole context, within a quarter of "
        "the memory that is free",
        0,
        minimum=0,
    )
    kv_host_gb: float = setting_like(AttentionSettings, "kv_host_gb")
    max_itl_ms: float = setting_like(AttentionSettings, "max_itl_ms")
    fair_slowdown: float = setting_like(AttentionSettings, "fair_slowdown")
    draft: int = setting_like(AttentionSettings, "draft")
    link: str = setting_like(AttentionSettings, "link")
    dispatch_dtype: str = setting_like(AttentionSettings, "dispatch_dtype")
    kv_dtype: str = setting_like(AttentionSettings, "kv_dtype")
    generation_config: str = setting_like(RouterSettings, "generation_config")
    record: str = setting(
        "file to which every answer is written bit for bit, for `caracal verify`: with prompts, readable by its owner"
        " alone. With several routers each has one, FILE, FILE-1 and so on; empty = none",
        "",
    )
    tls: bool = setting(
        "TLS between the cluster's processes, with certificates of a throw-away authority; clients connect as without",
        False,
    )
    allow_plain_p2p: bool = setting_like(AttentionSettings, "allow_plain_p2p")
    environment: dict[str, str] = field(  # for every child
        default_factory=dict, metadata={"rule": Rule(help="further variables of every process")}
    )

    @classmethod
    def label(cls, name: str) -> str:
        return "--" + name.replace("_", "-")

    def validate(self) -> None:
        if self.tp > MAX_WORKERS:
            raise self.invalid("tp", self.tp, f"must be at most {MAX_WORKERS}")
        if self.link == "native" and (why := unavailable(self.tls)):
            raise self.invalid("link", self.link, why)
        if self.tls:
            self._check_tls()
        self._check_device()
        try:
            heads = check_model(self.model).num_attention_heads
        except WrongModel as error:
            raise self.invalid("model", self.model, str(error)) from None
        if heads % self.tp:
            raise self.invalid("tp", self.tp, f"must divide the model's {heads} attention heads")

    def _check_tls(self) -> None:
        if find_spec("cryptography") is None:
            raise InvalidSetting("--tls needs the package cryptography: pip install 'caracal[local]'")
        if self.allow_plain_p2p:
            return
        plain = "--tls is given, and NCCL and gloo cannot be encrypted: --allow-plain-p2p allows them"
        if self.link == "nccl":
            raise self.invalid("link", self.link, f"{plain}; use native or grpc")
        if self.tp > 1 and self.device != "cpu":
            raise self.invalid("tp", self.tp, f"ranks on GPUs use NCCL; {plain}")

    def check_port(self) -> None:
        """Raises InvalidSetting when the gateway cannot listen on its host and ports."""
        try:
            bound_socket(self.host, self.port).close()
        except CannotListen as error:
            if error.why in (errno.EADDRINUSE, errno.EACCES):
                raise self.invalid("port", self.port, f"{error}; try another") from None
            raise self.invalid("host", self.host, str(error)) from None
        try:
            bound_socket(loopback_of(self.host), self.admin_port).close()
        except CannotListen as error:
            raise self.invalid("admin_port", self.admin_port, f"{error}; try another") from None

    @property
    def attention_ranks(self) -> int:
        """Processes that compute attention."""
        return self.attention * self.tp

    def worker_environment(self) -> dict[str, str]:
        """Variables of every child. Threads are shared out, and sleep while they wait: two pools that spin on one core
        stop each other."""
        threads = str(max(1, (os.cpu_count() or 1) // (self.attention_ranks + self.expert)))
        return {
            "PYTHONPATH": import_path(),
            "CARACAL_MODEL": str(self.model),
            "CARACAL_DTYPE": self.dtype,
            "CARACAL_DEVICE": self.device,
            "CARACAL_KV_PAGES": str(self.kv_pages),
            "CARACAL_KV_HOST_GB": str(self.kv_host_gb),
            "CARACAL_SHARED_GPU": "1",  # the first worker must not take all that is free for its pages
            "CARACAL_MAX_ITL_MS": str(self.max_itl_ms),
            "CARACAL_FAIR_SLOWDOWN": str(self.fair_slowdown),
            "CARACAL_DRAFT": str(self.draft),
            "CARACAL_TP": str(self.tp),
            "CARACAL_LINK": self.link,
            "CARACAL_ALLOW_PLAIN_P2P": str(int(self.allow_plain_p2p)),
            "NCCL_MULTI_RANK_GPU_ENABLE": "1",  # workers of one machine share its GPU; NCCL >= 2.30 obeys
            "CARACAL_DISPATCH_DTYPE": self.dispatch_dtype,
            "CARACAL_KV_DTYPE": self.kv_dtype,
            "CARACAL_GENERATION_CONFIG": self.generation_config,
            "CARACAL_HOST": loopback_of(self.host),
            "CARACAL_ADVERTISE_HOST": loopback_of(self.host),
            "CARACAL_THREADS": threads,
            **self._spinning(),
            "OMP_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
            **self.environment,
        }

    def router_environment(self, number: int) -> dict[str, str]:
        """Variables of one router, after those of every child: routers alone are there for other machines."""
        return {
            "CARACAL_HOST": self.host,
            "CARACAL_ADVERTISE_HOST": on_this_machine(self.host),
            "CARACAL_ADMIN_HOST": loopback_of(self.host),
            "CARACAL_RECORD": f"{Path(self.record).absolute()}{f'-{number}' if number else ''}" if self.record else "",
        }

    def cores_environment(self, role: str, number: int) -> dict[str, str]:
        """Variables of one child: the cores of its role, if it is one of the workers that they were counted for."""
        if number >= {"attention": self.attention, "expert": self.expert}.get(role, 0):
            return {"CARACAL_CORES": ""}  # any, whatever is set for `caracal up` itself
        return {"CARACAL_CORES": format_cores(cores_of(role, self.attention_ranks, self.expert, sorted(own_cores())))}

    def _spinning(self) -> dict[str, str]:
        """With more processes than cores, polling would take the time from what is waited for."""
        short = (os.cpu_count() or 1) < self.attention_ranks + self.expert
        return {"CARACAL_SPIN_US": "0"} if short else {}

    def _check_device(self) -> None:
        """Raises InvalidSetting unless it is the CPU or as many GPUs from there on as there are ranks."""
        named = re.fullmatch(r"cpu|cuda(?::([0-9]{1,4}))?", self.device)
        if not named:
            raise self.invalid("device", self.device, "must be cpu, cuda or cuda:N")
        if self.device == "cpu":
            return
        first, count = int(named[1] or 0), gpu_count()
        if first + self.tp > count:
            have = f"{count} GPU{'s' if count > 1 else ''}" if count else "no GPU that CUDA can use"
            ranks = f", and --tp is {self.tp}" if self.tp > 1 and first < count else ""
            raise self.invalid("device", self.device, f"this machine has {have}{ranks}")


def check_count(role: str, count: int) -> None:
    """Raises InvalidSetting unless a local cluster can have so many workers of a role."""
    if violation := count_violation(role, count):
        raise InvalidSetting(violation)
