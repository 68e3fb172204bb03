"""POST /tokenize and /detokenize, as in vLLM: evaluations need no local tokenizer."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from services.router.gateway.context import GatewayContext
from services.router.gateway.json_bytes import json_bytes
from services.router.gateway.off_loop import off_loop
from services.router.gateway.prompts import chat_ids, chat_prompt, text_ids
from services.router.gateway.request_body import read_model
from services.router.gateway.schemas import DetokenizeRequest, TokenizeRequest
from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest


async def tokenize(gateway: GatewayContext, request: Request) -> Response:
    body = await read_model(request, TokenizeRequest)
    gateway.check_model(body.model)
    assets = gateway.serving.assets
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Exactly one of prompt and messages is required.", param="prompt")
    if body.messages is not None:
        prompt = await chat_prompt(gateway.serving, body.messages, body, body.tool_choice)
        ids = await chat_ids(gateway.serving, prompt)
    else:
        special = body.add_special_tokens is not False
        ids = await text_ids(gateway.serving, body.prompt or "", add_special_tokens=special)
    found = {"count": len(ids), "max_model_len": gateway.serving.context_limit.tokens, "tokens": ids}
    return await off_loop(_tokenized, assets, found, strings=bool(body.return_token_strs))


def _tokenized(assets: ModelAssets, found: dict[str, Any], *, strings: bool) -> Response:
    # In a loop of Python, in which other threads get their turn; `map` would hold them up to its end.
    found["token_strs"] = [assets.tokenizer.id_to_token(one) for one in found["tokens"]] if strings else None
    return Response(json_bytes(found), media_type="application/json")


async def detokenize(gateway: GatewayContext, request: Request) -> Response:
    body = await read_model(request, DetokenizeRequest)
    gateway.check_model(body.model)
    assets = gateway.serving.assets
    if max(body.tokens, default=0) >= assets.vocab_size:
        raise InvalidRequest(f"tokens must be below {assets.vocab_size}.", param="tokens", code="value_out_of_range")
    text = await gateway.serving.texts.decode(body.tokens)
    return Response(await off_loop(json_bytes, {"prompt": text}), media_type="application/json")
