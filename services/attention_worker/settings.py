"""Settings of the attention worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.checkpoint.ngram import TABLES_FOLDER
from services.process.settings import WorkerSettings, setting
from services.router.dispatch.call_latency import HedgeOptions
from services.security.identity import ATTENTION
from services.transport.limits import MAX_ROWS
from services.transport.native_extension import unavailable

# What a 0 stands for. 200 ms between tokens is about as fast as people read; a GPU's steps are shorter.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 256, 4096
CPU_ITL_MS, GPU_ITL_MS = 200.0, 100.0
FAIR_SLOWDOWN = 1.2  # a step waits for others' prompts besides, and a crowd's clients take cores: about 2 in the end
HEDGING = HedgeOptions()
PLAIN_P2P = "TLS is on, and NCCL and gloo cannot be encrypted: CARACAL_ALLOW_PLAIN_P2P=1 allows them"


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(WorkerSettings):
    """One attention worker; with several ranks, every rank reads the same ones."""

    role = ATTENTION

    tp: int = setting(
        "tensor-parallel ranks, each a process; must divide the attention heads. Rank N takes the Nth GPU after the "
        "first one's",
        1,
        minimum=1,
    )
    kv_pages: int = setting(
        "pages of the latent cache; 0 = on a GPU, as many as fit the memory that is free; on a CPU, enough for one "
        "sequence of the model's whole context and for 32768 tokens, within a quarter of the memory that is free",
        0,
        minimum=0,
    )
    shared_gpu: bool = setting(
        "1: other processes use this GPU's memory as well, so a CARACAL_KV_PAGES of 0 means the same as on a CPU", False
    )
    page_size: int = setting("tokens of a page", 64, minimum=16, multiple_of=16)
    prefix_cache: bool = setting(
        "1 keeps full pages of ended sequences while there is room, for sequences that begin with the same tokens", True
    )
    kv_migration: bool = setting(
        "1 fetches the pages of a sequence from the worker that it comes from, and keeps a draining worker until they "
        "are fetched; 0 computes them again. Of no use without CARACAL_PREFIX_CACHE",
        True,
    )
    kv_host_gb: float = setting(
        "gigabytes of host memory for pages whose place in the cache is needed, until they are asked for again; of "
        "each rank",
        0.0,
        minimum=0,
    )
    max_batch_tokens: int = setting(
        f"tokens of a step, prompt chunks and decodes together; 0 = {CPU_BATCH_TOKENS} on a CPU, {GPU_BATCH_TOKENS} on "
        "a GPU",
        0,
        minimum=0,
        maximum=MAX_ROWS,
    )
    max_itl_ms: float = setting(
        "milliseconds between two tokens of running answers that prompts beside them may not exceed: chunks of prompts "
        f"get shorter as their context grows; 0 = {CPU_ITL_MS:g} on a CPU, {GPU_ITL_MS:g} on a GPU",
        0.0,
        minimum=0,
    )
    fair_slowdown: float = setting(
        "times as long a step may take, for the sake of a caller with many sequences, as one in which all callers have "
        "as few as the one with fewest: the others take turns; at least 1; 0 = no bound, which gives more tokens per "
        "second and the caller with few a part of them",
        FAIR_SLOWDOWN,
        minimum=0,
    )
    draft: int = setting(
        "tokens that are drafted ahead of each answer and verified in one step, by the model's own multi-token "
        "prediction; answers are the same, bit for bit, with any number. 0 = none, -1 = 1 if the checkpoint has the "
        "tensors (model.mtp), else 0",
        -1,
        minimum=-1,
        maximum=3,
    )
    max_running: int = setting("sequences that run at once", 64, minimum=1)
    max_model_len: int = setting(
        "tokens of prompt and answer; 0 = what the model and the cache both allow", 0, minimum=0
    )
    expert_wait_s: float = setting("seconds a step waits for an expert that no worker has loaded", 30.0, minimum=0)
    hedge_quantile: float = setting(
        "quantile of the latencies of an expert worker's calls; one that takes twice as long is overdue, and is sent "
        "to another worker that has the experts as well: the first answer counts. 0 = none is",
        HEDGING.quantile,
        minimum=0,
        maximum=0.9999,
    )
    hedge_budget: float = setting(
        "calls to expert workers that may be sent a second time in this way, as a share of all",
        HEDGING.budget,
        minimum=0,
        maximum=1,
    )
    hedge_floor_ms: float = setting(
        "milliseconds before which no call to an expert worker is overdue", 1000 * HEDGING.floor_s, minimum=0
    )
    shadow_share: float = setting(
        "share of the calls to expert workers that are computed again afterwards, by another worker that has the "
        "experts, and compared bit for bit; it takes at most 2 % of a core here. 0 = none",
        0.01,
        minimum=0,
        maximum=1,
    )
    golden_share: float = setting(
        "share of the time of the thread that takes steps in which it computes golden tokens again, between two steps "
        "and a layer at a time, and compares them bit for bit with what they gave before it served; with CARACAL_TP "
        "above 1 it does not. 0 = never",
        0.002,
        minimum=0,
        maximum=0.1,
    )
    drain_timeout_s: float = setting(
        "seconds running sequences may take to finish after SIGTERM when no other worker can take them", 20.0, minimum=0
    )
    link: str = setting(
        "how rows travel to expert workers: grpc, nccl (gloo between CPUs), or native (sockets without Python); empty "
        "= native where it is compiled, else grpc",
        "",
        one_of=("grpc", "nccl", "native", ""),
    )
    tables_dir: Path = setting(  # noqa: RUF009  a dataclass field
        "folder in memory where the workers of a machine share n-gram tables; only Flash-Lite has any", TABLES_FOLDER
    )
    overlap: bool = setting("0 waits for experts before the dense path: only to measure what the shortcut hides", True)

    @property
    def chosen_link(self) -> str:
        """The link, by name."""
        return self.link or ("grpc" if unavailable(self.tls_files is not None) else "native")

    @property
    def kv_fp8(self) -> bool:
        """Whether latents are cached in fp8."""
        return self.kv_dtype == "fp8"

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def step_tokens(self) -> int:
        """The most tokens of a step on this device."""
        return self.max_batch_tokens or (GPU_BATCH_TOKENS if self.on_gpu else CPU_BATCH_TOKENS)

    @property
    def max_itl_s(self) -> float:
        """The seconds between two tokens that hold on this device."""
        return (self.max_itl_ms or (GPU_ITL_MS if self.on_gpu else CPU_ITL_MS)) / 1000

    @property
    def hedging(self) -> HedgeOptions:
        """When calls to expert workers are sent a second time."""
        return HedgeOptions(self.hedge_quantile, self.hedge_budget, self.hedge_floor_ms / 1000)

    def validate(self) -> None:
        super().validate()
        if self.link == "nccl" and not self.p2p_allowed:
            raise self.invalid("link", self.link, f"{PLAIN_P2P}; use native or grpc")
        if self.tp > 1 and self.on_gpu and not self.p2p_allowed:
            raise self.invalid("tp", self.tp, f"ranks on GPUs use NCCL; {PLAIN_P2P}")
        if 0 < self.fair_slowdown < 1:
            raise self.invalid("fair_slowdown", self.fair_slowdown, "must be at least 1, or 0")
        if self.kv_host_gb and not self.prefix_cache:
            raise self.invalid("kv_host_gb", self.kv_host_gb, "needs CARACAL_PREFIX_CACHE: only cached pages are kept")
        if self.max_running > self.step_tokens:
            raise self.invalid(
                "max_running", self.max_running, f"must not exceed CARACAL_MAX_BATCH_TOKENS, {self.step_tokens}"
            )
