"""Settings of the attention worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.checkpoint.ngram import TABLES_FOLDER
from services.process.settings import WorkerSettings, setting


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(WorkerSettings):
    """One attention worker; with several ranks, every rank reads the same ones."""

    tp: int = setting(
        "tensor-parallel ranks, each a process; must divide the attention heads. Rank N takes the Nth GPU after the "
        "first one's",
        1,
        minimum=1,
    )
    kv_pages: int = setting(
        "pages of the latent cache; 0 = 512 on a CPU, as many as fit the free memory on a GPU", 0, minimum=0
    )
    page_size: int = setting("tokens of a page", 64, minimum=16, multiple_of=16)
    max_batch_tokens: int = setting("tokens of a step, prompt chunks and decodes together", 256, minimum=1)
    max_running: int = setting("sequences that run at once", 64, minimum=1)
    max_model_len: int = setting(
        "tokens of prompt and answer; 0 = what the model and the cache both allow", 0, minimum=0
    )
    expert_wait_s: float = setting("seconds a step waits for an expert that no worker has loaded", 30.0, minimum=0)
    drain_timeout_s: float = setting(
        "seconds running sequences may take to finish after SIGTERM when no other worker can take them", 20.0, minimum=0
    )
    link: str = setting(
        "how rows travel to expert workers: grpc, or nccl (gloo between CPUs)", "grpc", one_of=("grpc", "nccl")
    )
    tables_dir: Path = setting(  # noqa: RUF009  a dataclass field
        "folder in memory where the workers of a machine share n-gram tables; only Flash-Lite has any", TABLES_FOLDER
    )
    overlap: bool = setting("0 waits for experts before the dense path: only to measure what the shortcut hides", True)

    def validate(self) -> None:
        if self.max_running > self.max_batch_tokens:
            why = f"must not exceed CARACAL_MAX_BATCH_TOKENS, {self.max_batch_tokens}"
            raise self.invalid("max_running", self.max_running, why)
