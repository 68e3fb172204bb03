"""An answer that its client may go on with after its router's death, at any router: behind the event that it saw last.

The client sends its request again, with the same X-Request-Id and, as Last-Event-ID, the id of that event. All that is
needed is in there: an answer's bits depend on prompt, sampling and seed alone, and a seed that nobody gave is made from
the request's id. So no router keeps anything. Workers keep tokens of such answers for a while, to be sooner
(services/attention_worker/recent_answers.py).
"""

from __future__ import annotations

import hashlib
import re
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from caracal_proto import attention_pb2
from fastapi import Request

from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.errors import CannotResume, InvalidRequest, NoWorker
from services.router.requests.generation import GenerationRequest
from services.router.requests.replay import Position, Resumed, tag_of

HEADER = "last-event-id"
BEGINNING = "0"  # in it: the client has nothing yet, and wants to be able to go on
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{22,128}")  # one that nobody guesses: a UUID, or 128 bits in base64
MOST_CHOICES = 16
CHOICE = r"(\d{1,7})(?:-(\d{1,6})-(\d{1,4}))?(e?)(?:_([0-9a-f]{8})_([0-9a-f]{8}))?"
EVENT_ID = re.compile(
    rf"(?P<created>[0-9a-f]{{1,10}})\.(?P<tag>[0-9a-f]{{16}})(?P<choices>(?:\.{CHOICE}){{1,{MOST_CHOICES}}})(?P<usage>\.u)?"
)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What the response needs to number its events: `tag` stands for the request, `created` is when it began.

    `usage_sent`: the client has all but the end of the stream.
    """

    tag: str
    created: int
    usage_sent: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be gone on with, before its choices are known. `secret`: the cluster's own, if it has one."""

    event_id: str
    identity: bytes  # of caller and request id
    body: bytes  # a digest of it
    secret: bytes

    @property
    def seed(self) -> int:
        """The seed of a request without one: the same each time that it is sent."""
        return int.from_bytes(self._digest(b"seed", (self.identity,), 8), "little") & (2**63 - 1)

    def bound(
        self, requests: Sequence[GenerationRequest], pool: AttentionWorkerPool
    ) -> tuple[list[GenerationRequest], Resumption]:
        """The requests of the choices, each with its position, and what numbers the response's events.

        Raises CannotResume where Last-Event-ID is not of this request, and NoWorker while there is no worker that
        computes as the one before did.
        """
        if len(requests) > MOST_CHOICES:
            raise InvalidRequest(
                f"Last-Event-ID: at most {MOST_CHOICES} choices can be gone on with.", param="Last-Event-ID"
            )
        keys = [self._key(number, one) for number, one in enumerate(requests)]
        tag = self._digest(b"tag", keys, 8).hex()
        if self.event_id == BEGINNING:
            resumed = [Resumed(key=key) for key in keys]
            return _with(requests, resumed), Resumption(tag, int(time.time()))
        found = EVENT_ID.fullmatch(self.event_id)
        if found is None:
            raise CannotResume("Last-Event-ID is none that was sent here.")
        choices = found["choices"][1:].split(".")
        if found["tag"] != tag or len(choices) != len(requests):
            raise CannotResume(
                "Last-Event-ID is of another request: X-Request-Id, API key and body must be the same as before."
            )
        resumed = [_resumed(key, choice, pool) for key, choice in zip(keys, choices, strict=True)]
        return _with(requests, resumed), Resumption(tag, int(found["created"], 16), bool(found["usage"]))

    def _key(self, number: int, request: GenerationRequest) -> bytes:
        """What determines a choice's answer. Not how long it may be: limits may be others now."""
        sampling = attention_pb2.Sampling()
        sampling.CopyFrom(request.sampling)
        sampling.max_tokens, sampling.prompt_only = 0, False
        prompt = array("I", request.prompt_ids).tobytes()
        parts = b"%d" % number, self.identity, self.body, prompt, sampling.SerializeToString(deterministic=True)
        return self._digest(b"answer", parts, 16)

    def _digest(self, what: bytes, parts: Iterable[bytes], size: int) -> bytes:
        digest = hashlib.blake2b(digest_size=size, key=self.secret[:64], person=what)
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()


def body_digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def asked_to_resume(request: Request, caller: str, secret: bytes) -> Asked | None:
    """What a request says about going on with it; None for most. `caller`: the name of its API key, if there are any.

    Raises InvalidRequest.
    """
    event_id = request.headers.get(HEADER)
    if event_id is None:
        return None
    request_id = request.headers.get("x-request-id", "")
    if not REQUEST_ID.fullmatch(request_id):
        raise InvalidRequest(
            "Last-Event-ID needs an X-Request-Id of 22 to 128 letters, digits and ._- that nobody can guess,"
            " such as a UUID.",
            param="X-Request-Id",
        )
    return Asked(event_id, f"{caller}\n{request_id}".encode(), request.state.body_digest, secret)


def refuse_to_resume(request: Request) -> None:
    """Raises InvalidRequest where a route has no answers that can be gone on with."""
    if HEADER in request.headers:
        raise InvalidRequest("Last-Event-ID is supported by chat completions and completions.", param="Last-Event-ID")


def _with(requests: Sequence[GenerationRequest], resumed: Sequence[Resumed]) -> list[GenerationRequest]:
    found = []
    for request, one in zip(requests, resumed, strict=True):
        # Scores of a prompt are not kept by workers; they come again with the answer.
        scored = request.sampling.HasField("prompt_logprobs")
        found.append(replace(request, resumed=replace(one, key=b"") if scored else one))
    return found


def _resumed(key: bytes, choice: str, pool: AttentionWorkerPool) -> Resumed:
    match = re.fullmatch(CHOICE, choice)
    assert match is not None, "the whole id matched"
    tokens, group, events, ended, numerics, worker = match.groups()
    position = Position(int(tokens), int(group or 0), int(events or 0), bool(ended))
    if numerics is None:
        return Resumed(key=key, position=position)
    classes = {one.numerics_class for one in pool.workers if one.serving}
    numerics_class = next((name for name in classes if tag_of(name) == numerics), None)
    if numerics_class is None:
        raise NoWorker("No worker computes as the one did that began this answer.", code="no_equivalent_worker")
    return Resumed(key=key, position=position, numerics_class=numerics_class, worker=worker)
