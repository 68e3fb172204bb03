"""What clients ask, over gRPC and over HTTP, and how they read what comes."""

from __future__ import annotations

import itertools
import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Protocol

import grpc
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from faults.history import Oracle, Receiver

LONGEST_S = 60.0  # of a request
AWAY_S = 15.0  # that routers may turn a stream away which goes on: less than a client would wait
AGAIN_S = 0.05  # after a request was refused, or its connection has broken
LAST_EVENT = "last-event-id"
REFUSED = {"rate_limit_exceeded", "overloaded", "rate_limit_error", "overloaded_error"}  # codes and Anthropic's types

Json = dict[str, Any]


class Refused(Exception):
    """At the door, before anything came: it may be asked again, as the answer says."""


class Failed(Exception):
    """The request ended without a whole answer."""


class Broken(Failed):
    """Its connection did: another router may go on with it."""


class Away(Broken):
    """This router cannot serve just now, and says so."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients reach a router, and another one over HTTP."""

    grpc: str
    http: tuple[str, int]
    other: tuple[str, int]


class Question(Protocol):
    @property
    def oracles(self) -> Sequence[Oracle]:
        """The right answer, one for each choice."""

    def ask(self, door: Door, channel: grpc.Channel, choices: Sequence[Receiver]) -> int:
        """Reads the whole answer; returns how often a router that cannot serve has turned it away meanwhile. Raises
        Refused or Failed."""


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

    def ask(self, door: Door, channel: grpc.Channel, choices: Sequence[Receiver]) -> int:
        (choice,), begun = choices, False
        request = router_pb2.TextRequest(prompt=self.prompt, sampling=self.sampling, priority=self.priority)
        try:
            for event in RouterStub(channel).Generate(request, timeout=LONGEST_S):
                begun, now = True, time.monotonic()
                for token in event.tokens:
                    choice.token(token.index, token.id, token.logits_checksum, now)
                if event.finish_reason:
                    choice.ending(event.finish_reason)
                    choice.usage(event.prompt_tokens, event.completion_tokens)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not begun:
                raise Refused from None
            raise Failed(f"{error.code().name}: {error.details()}") from None
        return 0


@dataclass(frozen=True)
class HttpQuestion:
    """A streamed answer of one of the HTTP APIs. `goes_on`: it is asked of the other router, and where its connection
    breaks, the client goes on with it behind the last event, at whichever router answers."""

    path: str
    body: Json
    oracles: Sequence[Oracle] = ()
    goes_on: bool = False

    def ask(self, door: Door, channel: grpc.Channel, choices: Sequence[Receiver]) -> int:
        reading = Reading(self.path, self.body, choices, goes_on=self.goes_on)
        addresses = itertools.cycle((door.other, door.http) if self.goes_on else (door.http,))
        end, turned_away, away_since = time.monotonic() + LONGEST_S, 0, math.inf
        while True:
            before = reading.events
            try:
                reading.read(next(addresses))
                return turned_away
            except (Broken, Refused) as error:
                if not self.goes_on or (isinstance(error, Refused) and not reading.begun):
                    raise
                now = time.monotonic()
                if reading.events > before:
                    away_since = math.inf
                if isinstance(error, Away):
                    turned_away, away_since = turned_away + 1, min(away_since, now)
                if now > min(end, away_since + AWAY_S):
                    raise Failed(f"it did not go on: {error}") from None
                time.sleep(AGAIN_S)


class Reading:
    """One stream, over one connection or several."""

    def __init__(self, path: str, body: Json, choices: Sequence[Receiver], *, goes_on: bool = False) -> None:
        self._path, self._body, self._choices = path, json.dumps(body | {"stream": True}), choices
        self._take, self._tokens, self._over = READERS[path], [0] * len(choices), False
        self.events = 0  # that have come
        self._headers = {"content-type": "application/json"}
        if goes_on:
            self._headers |= {"x-request-id": uuid.uuid4().hex, LAST_EVENT: "0"}

    @property
    def begun(self) -> bool:
        """Whether anything of an answer that may go on has come."""
        return self._headers.get(LAST_EVENT, "0") != "0"

    def read(self, address: tuple[str, int]) -> None:
        """Reads to the last event. Raises Refused, Broken or Failed."""
        with closing(HTTPConnection(*address, timeout=LONGEST_S)) as connection:
            try:
                connection.request("POST", self._path, self._body, self._headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise _failure(answer.status, json.loads(answer.read())["error"])
                self._read_events(answer)
            except (OSError, HTTPException) as error:
                raise Broken(f"{type(error).__name__}: {error}") from None
            except ValueError as error:
                raise Failed(f"what came is no JSON: {error}") from None
        if not self._over:
            raise Broken("the stream ends without its last event")

    def _read_events(self, lines: Iterable[bytes]) -> None:
        event: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.strip().partition(b": ")
            if name:
                event[name] = value
                continue
            if b"data" in event:  # which an empty line ends; one without is none yet
                if self._over:
                    raise Failed(f"an event comes after the last: {event[b'data'][:80]!r}")
                self._over = self._take(event[b"data"], self._choices, self._tokens, time.monotonic())
                self.events += 1
                if LAST_EVENT in self._headers and b"id" in event:
                    self._headers[LAST_EVENT] = event[b"id"].decode()
            event = {}


def _failure(status: int, error: Json) -> Refused | Failed:
    code = error.get("code") or error.get("type")
    if code in REFUSED:
        return Refused()
    return (Away if status == 503 else Failed)(f"{status}: {error.get('message')}")


def _take_choices(data: bytes, choices: Sequence[Receiver], tokens: list[int], now: float) -> bool:
    """Of chat completions and completions. `tokens`: how many of each choice have come."""
    if data == b"[DONE]":
        return True
    event: Json = json.loads(data)
    if "error" in event:
        raise Failed(str(event["error"].get("message")))
    if usage := event.get("usage"):
        choices[0].usage(usage["prompt_tokens"], usage["completion_tokens"])
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
        usage = event["response"]["usage"]
        choices[0].usage(usage["input_tokens"], usage["output_tokens"])
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
        usage = event["usage"]  # here the tokens that were cached are none of its input
        choices[0].usage(usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"])
    return kind == "message_stop"


Take = Callable[[bytes, Sequence[Receiver], list[int], float], bool]  # whether it was the last event
READERS: dict[str, Take] = {
    "/v1/chat/completions": _take_choices,
    "/v1/completions": _take_choices,
    "/v1/responses": _take_response,
    "/v1/messages": _take_message,
}
