"""What all routes of the gateway share: the serving context, and the checks of generation requests."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fastapi import Request

from services.membership.overview import Overview
from services.membership.shortage import CapacityShortage
from services.router.access.control import Access
from services.router.console.console import Console
from services.router.gateway.prompts import check_context, truncated
from services.router.gateway.responses_api.store import ResponseStore
from services.router.gateway.resumption import BEGINNING, Asked, Resumption, asked_to_resume
from services.router.gateway.sampling import (
    ANY_SEED,
    FREE,
    SEED_MASK,
    OutputRules,
    check_scores,
    choice_seed,
    draw_seed,
    of_choice,
    page_salt,
    sampling_of,
)
from services.router.gateway.schemas import CompletionRequest, Sampled
from services.router.gateway.server_span import describe_generation
from services.router.requests.admission import current_visit
from services.router.requests.choice_stream import ChoiceStream, ServingContext, TextRules
from services.router.requests.errors import CannotResume, InvalidRequest, ModelNotFound, NoWorker
from services.router.requests.generation import GenerationRequest

MODEL_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,64}(/[A-Za-z0-9_.:@-]{1,64})?")  # one that errors repeat
MAX_GRAMMARS = 16 << 20  # characters, in all choices of a request


async def _nothing_known() -> Overview:
    return Overview()


@dataclass(frozen=True)
class GatewayContext:
    """What the routes need. `overview` raises RedisUnavailable. Without `responses` none is stored.

    `run`: this router's worker id and boot id.
    """

    serving: ServingContext
    shortage: Callable[[], CapacityShortage | None] = lambda: None
    overview: Callable[[], Awaitable[Overview]] = _nothing_known
    responses: ResponseStore | None = None
    access: Access = field(default_factory=lambda: Access(None))
    console: Console | None = None
    salt_secret: Callable[[], bytes] = lambda: b""  # the cluster's own part in salts of cached pages
    unproven: Callable[[], str | None] = lambda: None  # why no answer is known to come, as ReadyProbe has it
    run: tuple[str, str] = ("", "")

    def check_model(self, model: str | None) -> None:
        """Raises ModelNotFound for any name but the served one; no name means the served one."""
        if model and model != self.serving.assets.name:
            named = f"The model '{model}'" if MODEL_NAME.fullmatch(model) else "The model"
            raise ModelNotFound(f"{named} does not exist here; see GET /v1/models.", param="model")

    def check_open(self) -> None:
        """Raises ShuttingDown or NoWorker when no new request is accepted."""
        if self.serving.closing is not None:
            raise self.serving.closing
        reason = self.serving.attention_workers.not_ready()
        if reason is not None:
            raise NoWorker(f"The cluster cannot serve this now: {reason}.")

    def generation_requests(
        self,
        body: Sampled,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | None,
        request_id: str,
        param: str,
        rules: OutputRules = FREE,
        own_seed: int | None = None,
    ) -> list[GenerationRequest]:
        """Returns one request per choice, n for each prompt. Raises InvalidRequest when something cannot fit, and
        TooManyRequests or Overloaded when it is too much for now.

        `param` names the body's field that an error about the prompt is about. `own_seed`: of a body without one;
        None draws it.
        """
        assets, limit = self.serving.assets, self.serving.context_limit
        prompts = [truncated(prompt, body.truncate_prompt_tokens, max_tokens, limit) for prompt in prompts]
        allowed = [check_context(len(prompt), max_tokens, limit, param=param) for prompt in prompts]
        if max_tokens is None and (default := assets.generation.defaults.max_new_tokens) is not None:
            allowed = [min(room, max(default, body.min_tokens or 0)) for room in allowed]
        drawn = draw_seed() if own_seed is None else own_seed
        seed = drawn if body.seed is None or body.seed == ANY_SEED else body.seed
        eos_ids = assets.eos_ids
        if len(rules.grammar) * len(prompts) * (body.n or 1) > MAX_GRAMMARS:
            raise InvalidRequest(f"{rules.field}: too large for so many choices.", param=rules.field)
        check_scores(body, sum(map(len, prompts)))
        visit = current_visit()
        assert visit is not None, "every request that generates is a visit"
        choices, prompt = body.n or 1, sum(map(len, prompts))
        if max_tokens is None and (left := visit.tokens_left) is not None:
            # An answer without max_tokens has no length before its end: it may have what its API key has left.
            each = int(left - choices * prompt) // (choices * len(prompts))
            allowed = [min(room, max(1, each)) for room in allowed]
        known = sum(allowed) if max_tokens is not None or visit.tokens_left is not None else 0
        visit.reserve(len(prompts) * choices, choices * prompt, choices * (prompt + known))
        salt = page_salt(body.cache_salt, visit.caller.name if self.access.on else "", self.salt_secret())
        base = sampling_of(body, seed & SEED_MASK, min(allowed, default=1), assets, rules)
        requests = [
            GenerationRequest(
                request_id=f"{request_id}-{i}.{choice}",
                prompt_ids=prompt,
                sampling=of_choice(base, choice_seed(seed, choice), count),
                visit=visit,
                eos_ids=eos_ids,
                grammar_field=rules.field,
                grammar_lines=rules.has_lines,
                priority=body.priority or 0,
                cache_salt=salt,
            )
            for i, (prompt, count) in enumerate(zip(prompts, allowed, strict=True))
            for choice in range(body.n or 1)
        ]
        operation = "text_completion" if isinstance(body, CompletionRequest) else "chat"
        describe_generation(operation, assets.name, sum(map(len, prompts)), requests)
        return requests

    def asked_to_resume(self, request: Request, body: Sampled) -> Asked | None:
        """What a request says about going on with its answer; None for most. Raises InvalidRequest."""
        visit = current_visit()
        caller = visit.caller.name if visit is not None and self.access.on else ""
        asked = asked_to_resume(request, caller, self.salt_secret())
        if asked is not None and not body.stream and asked.event_id != BEGINNING:
            raise CannotResume("Last-Event-ID must be 0 for an answer that is not streamed: it comes as a whole.")
        return asked

    def resumed(
        self, asked: Asked | None, requests: list[GenerationRequest]
    ) -> tuple[list[GenerationRequest], Resumption | None]:
        """The requests with what their client has already. Raises RouterError."""
        return (requests, None) if asked is None else asked.bound(requests, self.serving.attention_workers)

    def choice_streams(self, requests: Sequence[GenerationRequest], rules: TextRules) -> list[ChoiceStream]:
        return [ChoiceStream(self.serving, request, rules) for request in requests]
