"""What clients ask, over gRPC and over HTTP, and how they read what comes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Protocol

import grpc
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from faults.history import Oracle, Receiver

LONGEST_S = 60.0  # of a request
REFUSED = {"rate_limit_exceeded", "overloaded", "rate_limit_error", "overloaded_error"}  # codes and Anthropic's types

Json = dict[str, Any]


class Refused(Exception):
    """At the door, before anything came: it may be asked again, as the answer says."""


class Failed(Exception):
    """The request ended without a whole answer."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients reach a router."""

    grpc: str
    http: tuple[str, int]


class Question(Protocol):
    @property
    def oracles(self) -> Sequence[Oracle]:
        """The right answer, one for each choice."""

    def ask(self, door: Door, channel: grpc.Channel, choices: Sequence[Receiver]) -> None:
        """Reads the whole answer. Raises Refused or Failed."""


@dataclass(frozen=True)
class GrpcQuestion:
    """A prompt of which every token is compared with its logits' checksum."""

    prompt: str
    sampling: attention_pb2.Sampling
    oracle: Oracle
    priority: int = 0

    @property
    def oracles(self) -> Sequence[Oracle]:
        return [self.oracle]

    def ask(self, door: Door, channel: grpc.Channel, choices: Sequence[Receiver]) -> None:
        (choice,), begun = choices, False
        request = router_pb2.TextRequest(prompt=self.prompt, sampling=self.sampling, priority=self.priority)
        try:
            for event in RouterStub(channel).Generate(request, timeout=LONGEST_S):
                begun, now = True, time.monotonic()
                for token in event.tokens:
                    choice.token(token.index, token.id, token.logits_checksum, now)
                if event.finish_reason:
                    choice.ending(event.finish_reason)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not begun:
                raise Refused from None
            raise Failed(f"{error.code().name}: {error.details()}") from None


@dataclass(frozen=True)
class HttpQuestion:
    """A streamed answer of one of the HTTP APIs."""

    path: str
    body: Json
    oracles: Sequence[Oracle] = ()

    def ask(self, door: Door, channel: grpc.Channel, choices: Sequence[Receiver]) -> None:
        read_stream(door.http, self.path, self.body, choices)


def read_stream(address: tuple[str, int], path: str, body: Json, choices: Sequence[Receiver]) -> None:
    """Reads a stream to its last event. Raises Refused or Failed."""
    with closing(HTTPConnection(*address, timeout=LONGEST_S)) as connection:
        try:
            connection.request("POST", path, json.dumps(body | {"stream": True}), {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise _failure(answer.status, json.loads(answer.read())["error"])
            take, over, tokens = READERS[path], False, [0] * len(choices)
            for line in answer:
                if line.startswith(b"data: "):
                    if over:
                        raise Failed(f"an event comes after the last: {line[:80]!r}")
                    over = take(line[6:].strip(), choices, tokens, time.monotonic())
        except (OSError, HTTPException, ValueError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from None
    if not over:
        raise Failed("the stream ends without its last event")


def _failure(status: int, error: Json) -> Refused | Failed:
    code = error.get("code") or error.get("type")
    return Refused() if code in REFUSED else Failed(f"{status}: {error.get('message')}")


def _take_choices(data: bytes, choices: Sequence[Receiver], tokens: list[int], now: float) -> bool:
    """Of chat completions and completions. `tokens`: how many of each choice have come."""
    if data == b"[DONE]":
        return True
    event: Json = json.loads(data)
    if "error" in event:
        raise Failed(str(event["error"].get("message")))
    for value in event["choices"]:
        number = value["index"]
        ids = value.get("token_ids") or []
        scores = _scores(value.get("logprobs")) or [0.0] * len(ids)
        for token_id, score in zip(ids, scores, strict=True):
            choices[number].token(tokens[number], token_id, score, now)
            tokens[number] += 1
        for part, piece in _parts(value):
            if piece:
                choices[number].text(part, piece, now)
        if value["finish_reason"]:
            choices[number].ending(value["finish_reason"])
    return False


def _scores(logprobs: Json | None) -> list[float]:
    if not logprobs:
        return []
    if "content" in logprobs:
        return [entry["logprob"] for entry in logprobs["content"]]
    return list(logprobs["token_logprobs"])


def _parts(value: Json) -> list[tuple[str, str]]:
    delta = value.get("delta", {})
    parts = [("content", value.get("text") or delta.get("content")), ("reasoning", delta.get("reasoning"))]
    for call in delta.get("tool_calls", ()):
        for name in ("name", "arguments"):
            parts.append((f"{name} of call {call['index']}", call["function"].get(name)))
    return parts


def _take_response(data: bytes, choices: Sequence[Receiver], tokens: list[int], now: float) -> bool:
    event: Json = json.loads(data)
    kind: str = event["type"]
    if kind in ("error", "response.failed"):
        raise Failed(str(event.get("message", kind)))
    if kind.endswith(".delta") and event["delta"]:
        choices[0].text(f"{kind} of item {event['output_index']}", event["delta"], now)
    if kind in ("response.completed", "response.incomplete"):
        choices[0].ending(kind)
        return True
    return False


def _take_message(data: bytes, choices: Sequence[Receiver], tokens: list[int], now: float) -> bool:
    event: Json = json.loads(data)
    kind: str = event["type"]
    if kind == "error":
        raise Failed(str(event["error"].get("message")))
    if kind == "content_block_delta":
        delta = event["delta"]
        if piece := next(value for name, value in delta.items() if name != "type"):
            choices[0].text(f"{delta['type']} of block {event['index']}", piece, now)
    if kind == "message_delta":
        choices[0].ending(event["delta"]["stop_reason"])
    return kind == "message_stop"


Take = Callable[[bytes, Sequence[Receiver], list[int], float], bool]  # whether it was the last event
READERS: dict[str, Take] = {
    "/v1/chat/completions": _take_choices,
    "/v1/completions": _take_choices,
    "/v1/responses": _take_response,
    "/v1/messages": _take_message,
}
