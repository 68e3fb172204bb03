"""What the responses of chat completions and completions share: the envelope and the usage."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.router.gateway.event_ids import EventIds
from services.router.gateway.resumption import Resumption
from services.router.gateway.schemas import StreamOptions
from services.router.gateway.streaming import Client
from services.router.requests.choice_stream import ChoiceStream


@dataclass(slots=True)
class Envelope:
    """The fields that every chunk of one response repeats. The fingerprint is set with the first tokens."""

    prefix: str
    object: str
    model: str
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"

    @classmethod
    def of(cls, prefix: str, object: str, model: str, resumption: Resumption | None) -> Envelope:
        """The one of a response that may be gone on with is the same at every router."""
        made = cls(prefix, object, model)
        if resumption is not None:
            made.id, made.created = f"{prefix}-{resumption.tag}", resumption.created
        return made

    def fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint or None,
        }

    def event(self, choices: Sequence[Any], **more: Any) -> bytes:
        """Returns one server-sent event."""
        return b"data: " + orjson.dumps({**self.fields(), "choices": choices, **more}) + b"\n\n"

    def head(self, choice: str) -> bytes:
        """Returns an event up to the beginning of its choice, to be reused for every token of a stream."""
        return b"data: " + orjson.dumps(self.fields())[:-1] + b',"choices":[' + choice.encode()


def usage(choices: Sequence[ChoiceStream]) -> dict[str, Any]:
    """Returns the token counts of a response; a prompt counts once, however many choices it has, and its
    cached tokens are those that all of them found."""
    prompts: dict[int, list[ChoiceStream]] = {}
    for choice in choices:
        prompts.setdefault(id(choice.prompt_ids), []).append(choice)
    prompt = sum(same[0].prompt_tokens for same in prompts.values())
    cached = sum(min(choice.cached_tokens for choice in same) for same in prompts.values())
    completion = sum(choice.completion_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(choice.reasoning_tokens for choice in choices)},
    }


async def write_usage(
    client: Client,
    envelope: Envelope,
    options: StreamOptions | None,
    choices: Sequence[ChoiceStream],
    ids: EventIds | None,
) -> None:
    """Writes the event that ends a stream with its counts, if that is asked for and the client has none."""
    if not (options and options.include_usage):
        return
    event = envelope.event([], usage=usage(choices))
    if data := event if ids is None else ids.usage(event):
        await client.events(data)


class ChunkUsage:
    """The field `usage` of a choice's chunks: none, null, or its counts so far with `continuous_usage_stats`."""

    def __init__(self, options: StreamOptions | None, choice: ChoiceStream) -> None:
        self._counted = [choice] if options and options.continuous_usage_stats else []
        self._fields = {"usage": None} if options and options.include_usage else {}
        self._end = b',"usage":null}\n\n' if self._fields else b"}\n\n"

    def fields(self) -> dict[str, Any]:
        return {"usage": usage(self._counted)} if self._counted else self._fields

    def end(self) -> bytes:
        """Returns the end of an event after its choices, the same for each token unless these are counted."""
        return b',"usage":' + orjson.dumps(usage(self._counted)) + b"}\n\n" if self._counted else self._end
