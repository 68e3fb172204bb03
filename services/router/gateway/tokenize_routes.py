"""POST /tokenize and /detokenize, as in vLLM: evaluations need no local tokenizer."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from services.router.gateway.context import GatewayContext
from services.router.gateway.prompts import chat_ids, chat_prompt, text_ids
from services.router.gateway.request_body import read_model
from services.router.gateway.schemas import DetokenizeRequest, TokenizeRequest
from services.router.requests.errors import InvalidRequest


async def tokenize(gateway: GatewayContext, request: Request) -> dict[str, Any]:
    body = await read_model(request, TokenizeRequest)
    gateway.check_model(body.model)
    assets = gateway.serving.assets
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Exactly one of prompt and messages is required.", param="prompt")
    if body.messages is not None:
        prompt = await chat_prompt(assets, body.messages, body, body.tool_choice)
        ids = await chat_ids(assets, prompt)
    else:
        ids = await text_ids(assets, body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
    strings = [assets.tokenizer.id_to_token(token) for token in ids] if body.return_token_strs else None
    return {
        "count": len(ids),
        "max_model_len": gateway.serving.context_limit.tokens,
        "tokens": ids,
        "token_strs": strings,
    }


async def detokenize(gateway: GatewayContext, request: Request) -> dict[str, Any]:
    body = await read_model(request, DetokenizeRequest)
    gateway.check_model(body.model)
    assets = gateway.serving.assets
    if max(body.tokens, default=0) >= assets.vocab_size:
        raise InvalidRequest(f"tokens must be below {assets.vocab_size}.", param="tokens", code="value_out_of_range")
    return {"prompt": await run_in_threadpool(assets.tokenizer.decode, body.tokens, skip_special_tokens=False)}
