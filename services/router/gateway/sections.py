"""An answer as a row of sections (reasoning, text, calls), for APIs that stream and show it that way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from caracal_proto import attention_pb2

from services.router.gateway.chat_choice import ChatChoice
from services.router.gateway.content_tokens import ContentTokens
from services.router.gateway.event_stream import write_events
from services.router.gateway.field_names import FieldNames
from services.router.gateway.output_parser import Delta
from services.router.gateway.streaming import Client
from services.router.requests.choice_stream import TextDelta

Kind = Literal["content", "reasoning", "tool"]
Tokens = Sequence[attention_pb2.Token]


@dataclass(slots=True)
class Section:
    """A part of the answer without a break. The text of a call is its arguments, as JSON."""

    kind: Kind
    number: int  # of the section within the answer
    name: str = ""
    call_id: str = ""
    parts: list[str] = field(default_factory=list)
    tokens: list[attention_pb2.Token] = field(default_factory=list)
    last: bool = False  # of the finished answer

    @property
    def text(self) -> str:
        return "".join(self.parts)


class Step(NamedTuple):
    """What happens to a section: it opens, gets text with the tokens that made it, closes."""

    what: Literal["open", "text", "close"]
    section: Section
    text: str = ""
    tokens: Tokens = ()


Events = Callable[[list[Step]], bytes]


class SectionReader:
    """Reads one choice to its end. `names`: of the fields, for errors. `with_tokens`: content comes with its tokens."""

    def __init__(self, choice: ChatChoice, names: FieldNames, *, with_tokens: bool = False) -> None:
        self.choice = choice
        self._names = names
        self.sections: list[Section] = []
        self._tokens = ContentTokens(choice.choice_stream.vocabulary) if with_tokens else None
        self._call = -1  # index of the open call

    async def run(self) -> None:
        """Reads everything, for an answer that is not streamed. Raises RouterError."""
        with self._names.of_the_caller(), self.choice.choice_stream as choice_stream:
            while self.choice.finish_reason is None:
                self._steps(await choice_stream.next())

    async def stream(self, client: Client, events: Events) -> None:
        """Writes the events of the steps as they come. Raises RouterError."""

        def events_of(text_delta: TextDelta) -> bytes:
            steps = self._steps(text_delta)
            return events(steps) if steps else b""

        with self._names.of_the_caller():
            await write_events(self.choice.choice_stream, client, events_of)

    def _steps(self, text_delta: TextDelta) -> list[Step]:
        deltas = self.choice.parse(text_delta)
        tokens = self._tokens.push(text_delta.tokens, deltas) if self._tokens else [()] * len(deltas)
        steps = [step for delta, own in zip(deltas, tokens, strict=True) for step in self._read(delta, own)]
        if self.choice.finish_reason is not None and self.sections:
            self.sections[-1].last = True
            steps.append(Step("close", self.sections[-1]))
        return steps

    def _read(self, delta: Delta, tokens: Tokens) -> list[Step]:
        steps: list[Step] = []
        open_ = self.sections[-1] if self.sections else None
        call = delta.tool.index if delta.tool is not None else -1
        if open_ is None or open_.kind != delta.kind or call != self._call:
            if open_ is not None:
                steps.append(Step("close", open_))
            open_ = Section(delta.kind, len(self.sections))
            if delta.tool is not None:
                open_.name, open_.call_id = delta.tool.name or "", delta.tool.call_id or ""
            self.sections.append(open_)
            steps.append(Step("open", open_))
            self._call = call
        text = delta.text if delta.tool is None else delta.tool.arguments
        if text:
            open_.parts.append(text)
            open_.tokens += tokens
            steps.append(Step("text", open_, text, tokens))
        return steps
