"""The gRPC gateway, Router.Generate: the same checks and request lifecycle as over HTTP."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio
import structlog
from caracal_proto import attention_pb2, router_pb2, router_pb2_grpc

from services.process.grpc_server import AsyncGrpcServer
from services.router.gateway.context import GatewayContext
from services.router.gateway.off_loop import off_loop
from services.router.gateway.prompts import chat_ids, chat_prompt, completion_ids
from services.router.gateway.request_body import (
    LONG_BODY_BYTES,
    MAX_VALUES,
    check_model_fields,
    check_values,
    parse_json,
)
from services.router.gateway.schemas import ChatRequest, CompletionRequest
from services.router.gateway.server_span import rpc_span
from services.router.requests.callers import caller_at
from services.router.requests.choice_stream import TextRules
from services.router.requests.errors import InvalidRequest, Overloaded, RouterError

log = structlog.get_logger(__name__)

NAME = router_pb2.DESCRIPTOR.services_by_name["Router"].full_name
METHOD = f"/{NAME}/Generate"
MAX_MESSAGE_BYTES = 4 << 20
PUSHBACK = 1000  # milliseconds of a second
STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# Of Sampling, which is a message between router and workers as well.
NOT_TAKEN = frozenset({"grammar", "banned", "reasoning", "prompt_logprobs", "prompt_only"})

Context = grpc.aio.ServicerContext[Any, Any]


class NotRead(RouterError):
    """Expected: the client does not read its answer, which takes a place at a worker."""

    status = 504
    code = "not_read"


class RouterServicer(router_pb2_grpc.RouterServicer):
    """Generates text from a prompt or from messages."""

    def __init__(self, gateway: GatewayContext, unread_s: float) -> None:
        """`unread_s`: how long a client may read nothing of what waits for it."""
        self._gateway, self._unread_s = gateway, unread_s

    # grpc.aio takes a coroutine that writes, too.
    async def Generate(self, request: router_pb2.TextRequest, context: Context) -> None:  # type: ignore[override]
        """Streams the answer. The generation ends at once when the client cancels, disconnects or does not read."""
        request_id = uuid.uuid4().hex
        admission, access = self._gateway.serving.admission, self._gateway.access
        try:
            key = access.check(METHOD, [(name.encode(), _bytes(value)) for name, value in _metadata(context)])
            caller = access.caller(key) if key else caller_at(peer_host(context.peer()))
            with (
                admission.visit(caller, request.ByteSize(), access.begin(key) if key else None),
                structlog.contextvars.bound_contextvars(request_id=request_id),
                rpc_span(context.invocation_metadata() or (), request_id),
            ):
                async with aclosing(self._answer(request, request_id)) as events:
                    async for event in events:
                        await self._send(event, context)
        except RouterError as error:
            await _abort(context, error)

    async def _send(self, event: router_pb2.TextEvent, context: Context) -> None:
        """Raises NotRead."""
        try:
            async with asyncio.timeout(self._unread_s):
                await context.write(event)
        except TimeoutError:
            log.info("client does not read")
            raise NotRead(f"Nothing of the answer was read for {self._unread_s:g} s.") from None

    async def Identify(self, request: router_pb2.IdentifyRequest, context: Context) -> router_pb2.IdentifyReply:
        """Says whether this is the run that the caller has read of. Needs no API key."""
        asked = f"{request.worker_id} {request.boot_id}".encode()
        same = hmac.compare_digest(asked, " ".join(self._gateway.run).encode())
        return router_pb2.IdentifyReply(same=same and bool(request.boot_id))

    async def _answer(self, request: router_pb2.TextRequest, request_id: str) -> AsyncGenerator[router_pb2.TextEvent]:
        gateway, serving = self._gateway, self._gateway.serving
        body = await off_loop(body_of, request) if request.ByteSize() > LONG_BODY_BYTES else body_of(request)
        gateway.check_model(request.model)
        if isinstance(body, ChatRequest):
            prompt = await chat_prompt(serving, body.messages, body)
            prompts = [await chat_ids(serving, prompt, serving.context_limit)]
        else:
            prompts = await completion_ids(serving, body, serving.context_limit)
        requests = gateway.generation_requests(body, prompts, body.max_tokens, request_id, "prompt")
        gateway.check_open()
        (choice,) = gateway.choice_streams(requests, TextRules(stop=body.stops))
        with choice:
            finish_reason: str | None = None
            while finish_reason is None:
                delta = await choice.next()
                finish_reason = delta.finish_reason
                event = router_pb2.TextEvent(text=delta.text, tokens=delta.tokens)
                event.system_fingerprint = choice.numerics_class
                if finish_reason is not None:
                    event.finish_reason = finish_reason
                    event.prompt_tokens, event.completion_tokens = choice.prompt_tokens, choice.completion_tokens
                    event.cached_tokens = choice.cached_tokens
                yield event


def body_of(request: router_pb2.TextRequest) -> ChatRequest | CompletionRequest:
    """Returns the HTTP request body that is equivalent to a gRPC request. Raises InvalidRequest."""
    fields = _fields(request.sampling) | ({"stop": list(request.stop)} if request.stop else {})
    if request.cache_salt:
        fields["cache_salt"] = request.cache_salt
    fields["priority"] = request.priority
    if request.WhichOneof("input") == "messages_json":
        chat = {"messages": _messages(request.messages_json.encode()), **fields}
        if request.sampling.logprobs:
            chat |= {"logprobs": True, "top_logprobs": request.sampling.top_logprobs}
        return check_model_fields(chat, ChatRequest)
    if request.WhichOneof("input") != "prompt":
        raise InvalidRequest("One of prompt and messages_json is required.", param="input")
    completion = {"prompt": request.prompt, **fields}
    if request.sampling.logprobs:
        completion["logprobs"] = request.sampling.top_logprobs
    return check_model_fields(completion, CompletionRequest)


def _messages(data: bytes) -> Any:
    """Parses messages_json. Raises InvalidRequest, which names it."""
    try:
        check_values(data, MAX_VALUES)
        return parse_json(data)
    except InvalidRequest as error:
        message = error.message.replace("The body", "messages_json")
        raise InvalidRequest(message, param="messages_json", code=error.code) from None


def _fields(sampling: attention_pb2.Sampling) -> dict[str, Any]:
    """Returns the body's sampling fields. Zero means "not set" where it would make no sense as a value."""
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
    if sampling.allowed_ids:
        fields["allowed_token_ids"] = list(sampling.allowed_ids)
    for field, _ in sampling.ListFields():
        if field.name in NOT_TAKEN:
            name = f"sampling.{field.name}"
            raise InvalidRequest(f"{name} is not taken here; use HTTP.", param=name, code="unsupported_parameter")
    return fields


def _metadata(context: Context) -> Iterable[tuple[str, str | bytes]]:
    return context.invocation_metadata() or ()


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1", errors="replace") if isinstance(value, str) else value


def peer_host(peer: str) -> str:
    """The address in gRPC's name of a peer: `ipv4:127.0.0.1:50000`, `ipv6:%5B::1%5D:50000`, `unix:...`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind


async def _abort(context: Context, error: RouterError) -> NoReturn:
    trailing = [("caracal-error", json.dumps(error.body()["error"]))]
    if error.retry_after_s is not None:
        trailing += [
            ("retry-after", str(error.retry_after_s)),
            ("grpc-retry-pushback-ms", str(PUSHBACK * error.retry_after_s)),
        ]
    code = STATUS.get(error.status, grpc.StatusCode.INTERNAL)
    if isinstance(error, Overloaded):
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    await context.abort(code, error.message, tuple(trailing))
    raise AssertionError("abort raises")


class GrpcServer(AsyncGrpcServer):
    """The gateway's gRPC listener."""

    def __init__(self, gateway: GatewayContext, unread_s: float) -> None:
        """`unread_s`: as RouterServicer's."""
        super().__init__(
            NAME,
            lambda server: router_pb2_grpc.add_RouterServicer_to_server(RouterServicer(gateway, unread_s), server),
            (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),),
        )

    async def start(self, host: str, port: int) -> int:
        port = await super().start(host, port)
        await self.set_ready(True)
        return port
