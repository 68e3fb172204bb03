from collections.abc import Sequence

from torch import Tensor

BUILD_ID: str
COUNTS: Sequence[str]
SECONDS: Sequence[str]

class Attention:
    def __init__(
        self,
        *,
        norm: Tensor,
        q_a: Tensor,
        q_a_norm: Tensor,
        q_b: Tensor,
        kv_a: Tensor,
        kv_a_norm: Tensor,
        w_uk: Tensor,
        w_uv: Tensor,
        o_proj: Tensor,
        cos_sin: Tensor,
        norm_eps: float,
        lora_eps: float,
        q_scale: float,
        kv_scale: float,
        scale: float,
        latent: int,
        sink_blocks: int,
        recent_blocks: int,
    ) -> None: ...

class Mlp:
    def __init__(self, gate_up: Tensor, down: Tensor) -> None: ...

class Layer:
    def __init__(
        self,
        *,
        attention: Sequence[Attention],
        post_norm: Sequence[Tensor],
        norm_eps: float,
        mlp: Sequence[Mlp],
        classifier: Tensor,
        bias: Tensor,
    ) -> None: ...

class Gate:
    def __init__(self, *, top_k: int, num_ffn: int, scale: float, norm_topk: bool) -> None: ...

class Routes:
    """A placement table, the sessions with its workers, and the gate's settings."""

    def __init__(
        self,
        *,
        scatterer: object,
        generation: int,
        epoch: int,
        serial: Tensor,
        replica_offset: Sequence[Tensor],
        worker: Sequence[Tensor],
        gate: Gate,
        drops_zero: bool,
        dtype: int,
        timeout_s: float,
        leaves_overdue: bool,
        counts: Tensor,
        seconds: Tensor,
        shadow: Tensor,
    ) -> None: ...

class InFlight:
    """A layer whose replies have not all come, or are not finite; or one that is kept, whose replies are all well."""

    step: int
    layer: int
    h: Tensor
    ids: Tensor
    weights: Tensor
    zero: Tensor
    y: Tensor
    plan: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    sent_s: float
    waits_since_s: float
    def take_exchange(self) -> object: ...

class Outcome:
    reached: int
    x: Tensor
    messages: int
    interrupted: InFlight | None
    logits: Tensor | None
    hidden: Tensor | None
    kept: Sequence[InFlight]

class Head:
    def __init__(self, *, norm: Tensor, norm_eps: float, matrix: Tensor) -> None: ...

class Draft:
    def __init__(
        self,
        *,
        word: Tensor,
        token_norm: Tensor,
        hidden_norm: Tensor,
        join: Tensor,
        attention: Attention,
        post_norm: Tensor,
        mlp: Mlp,
        norm: Tensor,
        norm_eps: float,
    ) -> None: ...

class Stack:
    def __init__(self, layers: Sequence[Layer], word: Tensor | None, head: Head, draft: Draft | None) -> None: ...
    def draft(
        self,
        hidden: Tensor,
        ids: Tensor,
        positions: Tensor,
        seq: Tensor,
        slot_mapping: Tensor,
        page_table: Tensor,
        sample_rows: Tensor,
        cache: Tensor,
    ) -> tuple[Tensor, Tensor]: ...
    def run(
        self,
        first: int,
        until: int,
        x: Tensor | None,
        number: int,
        ids: Tensor,
        positions: Tensor,
        seq: Tensor,
        slot_mapping: Tensor,
        page_table: Tensor,
        sample_rows: Tensor,
        caches: Sequence[Tensor],
        routes: Routes,
    ) -> Outcome: ...

def draw(
    logits: Tensor,
    seeds: Sequence[int],
    positions: Sequence[int],
    temperature: Sequence[float],
    top_k: Sequence[int],
    top_p: Sequence[float],
    min_p: Sequence[float],
) -> tuple[list[int], list[int], list[int]]: ...
