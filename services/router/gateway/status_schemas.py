"""What the routes about the router itself answer with, for the OpenAPI document: answers are written without them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.router.gateway.answer_schemas import Answer, ErrorDetail


class Health(Answer):
    status: Literal["ok"]


class Ready(Answer):
    """Requests are served. `warning`: the capacity that lacks; while `degraded`, some requests wait for it.

    While `cold`, all wait for a first attention worker; `reason`: why none serves.
    """

    status: Literal["ready", "degraded", "cold"]
    reason: str = ""
    warning: str = ""


class NotReady(Answer):
    """No request can be served."""

    error: ErrorDetail
    status: Literal["not ready"]
    reason: str
    warning: str = ""


class Version(Answer):
    version: str


class Load(Answer):
    server_load: int = Field(description="open sequences")
    open_on: dict[str, int] = Field(description="open sequences by attention worker")


class GenerationDefaults(Answer):
    """What requests get that say nothing else, from the model's generation_config.json."""

    eos_token_id: list[int]
    temperature: float | None = None
    top_k: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    not_applied: list[str] = Field(description="fields of that file that have no effect here")


class ModelCard(Answer):
    id: str
    object: Literal["model"]
    created: int = Field(description="seconds since 1970")
    owned_by: Literal["caracal"]
    root: str
    parent: None
    max_model_len: int = Field(description="tokens of prompt and answer")
    generation_config: GenerationDefaults


class ModelList(Answer):
    object: Literal["list"]
    data: list[ModelCard]


class Worker(Answer):
    """One process of the cluster, as it describes itself in Redis."""

    worker_id: str
    role: Literal["router", "attention", "expert"]
    address: str
    boot_id: str
    metrics_address: str
    numerics_class: str
    numerics: dict[str, str]
    epoch: int
    progress: int
    draining: bool
    stands_still: bool = Field(description="its computing thread does not go on")
    capacity: int = Field(description="experts that it may load; 0: any number")
    fitting: int = Field(description="experts that fit its memory beside others; 0: unknown")
    host: str
    zone: str
    refused: str = Field(description="why it must not serve; empty: it may")
    quarantined: str = Field(description="why it is left out, since it computes wrongly; empty: it is not")
    loaded: int
    stats: dict[str, float]
    layers: dict[str, list[float]]


class Cluster(Answer):
    """What `caracal status --gateway` shows."""

    epoch: int
    leader: str
    warning: str
    lost: int = Field(description="experts that are loaded on no worker")
    desired: dict[str, int]
    holds: dict[str, str] = Field(description="why new expert workers do not count as ready yet, by numerics class")
    workers: list[Worker]
    numerics_classes: list[str]
