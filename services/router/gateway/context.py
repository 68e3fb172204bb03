"""What every route of the gateway works with, and the checks that all generation requests share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.membership.overview import Overview
from services.membership.shortage import CapacityShortage
from services.router.gateway.prompts import check_context
from services.router.gateway.sampling import choice_seed, draw_seed, sampling_of
from services.router.gateway.schemas import Sampled
from services.router.requests.errors import ModelNotFound, NoWorker
from services.router.requests.generation import GenerationRequest
from services.router.requests.reply import Reply, ServingContext, TextRules


async def _nothing_known() -> Overview:
    return Overview()


@dataclass(frozen=True)
class GatewayContext:
    """The served model and its cluster. Times in seconds."""

    cluster: ServingContext
    deadline_s: float = 600.0
    shortage: Callable[[], CapacityShortage | None] = lambda: None  # what the placement has no room for
    overview: Callable[[], Awaitable[Overview]] = _nothing_known  # of the whole cluster; raises RedisUnavailable

    def check_model(self, model: str | None) -> None:
        """Raises ModelNotFound for any name but the served one; no name means the served one."""
        if model and model != self.cluster.assets.name:
            raise ModelNotFound("The model does not exist here; see GET /v1/models.", param="model")

    def check_open(self) -> None:
        """Raises when no new request is taken: shutting down, or nobody to serve it."""
        if self.cluster.closing is not None:
            raise self.cluster.closing
        reason = self.cluster.attention_workers.not_ready()
        if reason is not None:
            raise NoWorker(f"The cluster cannot serve this now: {reason}.")

    def orders(
        self, request: Sampled, prompts: Sequence[Sequence[int]], max_tokens: int | None, request_id: str, param: str
    ) -> list[GenerationRequest]:
        """One order per choice: n for each prompt. Raises InvalidRequest when something cannot fit."""
        assets, limit = self.cluster.assets, self.cluster.max_model_len
        allowed = [check_context(len(prompt), max_tokens, limit, param=param) for prompt in prompts]
        seed = draw_seed() if request.seed is None else request.seed
        eos_ids = assets.eos_ids
        deadline = time.monotonic() + self.deadline_s
        return [
            GenerationRequest(
                request_id=f"{request_id}-{i}.{choice}",
                prompt_ids=prompt,
                sampling=sampling_of(request, choice_seed(seed, choice), count, assets.vocab_size),
                deadline=deadline,
                eos_ids=eos_ids,
            )
            for i, (prompt, count) in enumerate(zip(prompts, allowed, strict=True))
            for choice in range(request.n or 1)
        ]

    def replies(self, orders: Sequence[GenerationRequest], rules: TextRules) -> list[Reply]:
        return [Reply(self.cluster, order, rules) for order in orders]
