"""The gateway for services: Router.Generate over gRPC, with the checks and the life of a request over HTTP."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from caracal_proto import attention_pb2, router_pb2, router_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.router.gateway.context import GatewayContext
from services.router.gateway.prompts import chat_ids, chat_segments, completion_ids
from services.router.gateway.request_body import check_model_fields, parse_json
from services.router.gateway.schemas import ChatRequest, CompletionRequest
from services.router.requests.errors import InvalidRequest, RouterError
from services.router.requests.reply import TextRules

log = structlog.get_logger(__name__)

NAME = router_pb2.DESCRIPTOR.services_by_name["Router"].full_name
MAX_MESSAGE = 4 << 20
STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class RouterServicer(router_pb2_grpc.RouterServicer):
    """Text or messages in, text out."""

    def __init__(self, service: GatewayContext) -> None:
        self._service = service

    async def Generate(self, request: router_pb2.TextRequest, context: Context) -> AsyncIterator[router_pb2.TextEvent]:
        """Streams the answer. A client that cancels, or leaves, ends the generation at once."""
        try:
            async for event in self._answer(request):
                yield event
        except RouterError as error:
            await _refuse(context, error)

    async def _answer(self, request: router_pb2.TextRequest) -> AsyncIterator[router_pb2.TextEvent]:
        service, shape = self._service, shape_of(request)
        service.check_model(request.model)
        if isinstance(shape, ChatRequest):
            segments = await chat_segments(service.cluster.assets, shape.messages, None)
            prompts = [await chat_ids(service.cluster.assets, segments, service.cluster.max_model_len)]
        else:
            prompts = await completion_ids(service.cluster.assets, shape, service.cluster.max_model_len)
        (order,) = service.orders(shape, prompts, shape.max_tokens, uuid.uuid4().hex, "prompt")
        service.check_open()
        (reply,) = service.replies([order], TextRules(stop=shape.stops))
        with reply:
            finish_reason: str | None = None
            while finish_reason is None:
                piece = await reply.next()
                finish_reason = piece.finish_reason
                event = router_pb2.TextEvent(text=piece.text, tokens=piece.tokens)
                event.system_fingerprint = reply.numerics_class
                if finish_reason is not None:
                    event.finish_reason = finish_reason
                    event.prompt_tokens, event.completion_tokens = reply.prompt_tokens, reply.completion_tokens
                yield event


def shape_of(request: router_pb2.TextRequest) -> ChatRequest | CompletionRequest:
    """The request as the HTTP routes would have read it. Raises InvalidRequest."""
    fields = _fields(request.sampling) | ({"stop": list(request.stop)} if request.stop else {})
    if request.WhichOneof("input") == "messages_json":
        chat = {"messages": parse_json(request.messages_json.encode()), **fields}
        if request.sampling.logprobs:
            chat |= {"logprobs": True, "top_logprobs": request.sampling.top_logprobs}
        return check_model_fields(chat, ChatRequest)
    if request.WhichOneof("input") != "prompt":
        raise InvalidRequest("One of prompt and messages_json is required.", param="input")
    completion = {"prompt": request.prompt, **fields}
    if request.sampling.logprobs:
        completion["logprobs"] = request.sampling.top_logprobs
    return check_model_fields(completion, CompletionRequest)


def _fields(sampling: attention_pb2.Sampling) -> dict[str, Any]:
    """Zero means "not set" where zero would mean nothing."""
    unset_at_zero = ("top_p", "repetition_penalty", "max_tokens", "seed")
    plain = ("temperature", "top_k", "min_p", "presence_penalty", "frequency_penalty", "min_tokens", "ignore_eos")
    fields: dict[str, Any] = {name: getattr(sampling, name) for name in plain}
    fields |= {name: value for name in unset_at_zero if (value := getattr(sampling, name))}
    if "seed" in fields:
        fields["seed"] &= 2**63 - 1
    if any(isinstance(value, float) and not math.isfinite(value) for value in fields.values()):
        raise InvalidRequest("sampling: every number must be finite.", param="sampling", code="value_out_of_range")
    fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    fields["stop_token_ids"] = list(sampling.stop_ids)
    return fields


async def _refuse(context: Context, error: RouterError) -> NoReturn:
    trailing = (("caracal-error", json.dumps(error.body()["error"])),)
    await context.abort(STATUS.get(error.status, grpc.StatusCode.INTERNAL), error.message, trailing)
    raise AssertionError("abort raises")


class GrpcServer:
    """The gRPC server with health and reflection."""

    def __init__(self, service: GatewayContext) -> None:
        self._server = grpc.aio.server(options=(("grpc.max_receive_message_length", MAX_MESSAGE),))
        self._health = health.aio.HealthServicer()
        router_pb2_grpc.add_RouterServicer_to_server(RouterServicer(service), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises RuntimeError when it is taken."""
        port = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        await self.serving(True)
        return port

    async def serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", NAME):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Takes no new call, gives the open ones `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)
