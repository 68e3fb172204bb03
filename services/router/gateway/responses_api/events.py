"""The events of a streamed response, in the order in which OpenAI sends them."""

from __future__ import annotations

from typing import Any

from services.router.gateway.json_bytes import json_bytes
from services.router.gateway.responses_api.answer import Answer
from services.router.gateway.responses_api.objects import OutputFunctionCall, OutputItem, OutputText, ReasoningPart
from services.router.gateway.sections import Section, Step
from services.router.requests.errors import RouterError


class ResponseEvents:
    """Makes the events of one answer. Each has the next number of the sequence."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._number = 0
        self._item: OutputItem | None = None  # of the last section
        self._open_section: Section | None = None

    def begin(self) -> bytes:
        response = self._answer.response.model_dump()
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def steps(self, steps: list[Step]) -> bytes:
        """Returns the events of what happens to sections, with those of the beginning before the first."""
        events = [] if self._number else [self.begin()]
        for step in steps:
            if step.what == "open":
                events += self._open(step.section)
            elif step.what == "text":
                events.append(self._text(step))
            else:
                events += self._close(step.section)
        return b"".join(events)

    def end(self) -> bytes:
        """Returns the last event of an answer that has finished, with the items of one without a word."""
        response = self._answer.response
        events = [] if self._number else [self.begin()]
        if response.output and self._item is None:  # an answer without a word has an item all the same
            section = Section("content", 0, last=True)
            response.output.clear()
            events += [*self._open(section), *self._close(section)]
        events.append(self._event(f"response.{response.status}", response=response.model_dump()))
        return b"".join(events)

    def fail(self, error: RouterError) -> bytes:
        """Returns the events of an error in the midst of an answer."""
        begin = b"" if self._number else self.begin()
        if self._open_section is not None and self._item is not None:
            self._answer.close(self._open_section, self._item)
            self._item.status = "incomplete"
        self._answer.fail(error)
        what = self._event("error", code=error.code, message=error.message, param=error.param)
        return begin + what + self._event("response.failed", response=self._answer.response.model_dump())

    def _open(self, section: Section) -> list[bytes]:
        self._item = item = self._answer.add(section)
        self._open_section = section
        events = [self._event("response.output_item.added", output_index=section.number, item=item.model_dump())]
        if not isinstance(item, OutputFunctionCall):
            part = OutputText() if section.kind == "content" else ReasoningPart()
            events.append(self._in_part("response.content_part.added", section, part=part.model_dump()))
        return events

    def _text(self, step: Step) -> bytes:
        section = step.section
        if section.kind == "content":
            logprobs = self._answer.logprobs(step.tokens)
            return self._in_part("response.output_text.delta", section, delta=step.text, logprobs=logprobs)
        if section.kind == "reasoning":
            return self._in_part("response.reasoning_text.delta", section, delta=step.text)
        return self._in_item("response.function_call_arguments.delta", section, delta=step.text)

    def _close(self, section: Section) -> list[bytes]:
        item = self._item
        assert item is not None
        self._answer.close(section, item)
        self._open_section = None
        events = []
        if isinstance(item, OutputFunctionCall):
            done = "response.function_call_arguments.done"
            events.append(self._in_item(done, section, arguments=item.arguments, name=item.name))
        else:
            part = item.content[0]
            fields: dict[str, Any] = {"text": part.text}
            if isinstance(part, OutputText):
                fields["logprobs"] = part.logprobs
            done = "response.output_text.done" if isinstance(part, OutputText) else "response.reasoning_text.done"
            events.append(self._in_part(done, section, **fields))
            events.append(self._in_part("response.content_part.done", section, part=part.model_dump()))
        events.append(self._event("response.output_item.done", output_index=section.number, item=item.model_dump()))
        return events

    def _in_part(self, kind: str, section: Section, **fields: Any) -> bytes:
        return self._in_item(kind, section, content_index=0, **fields)

    def _in_item(self, kind: str, section: Section, **fields: Any) -> bytes:
        assert self._item is not None
        return self._event(kind, item_id=self._item.id, output_index=section.number, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        data = json_bytes({"type": kind, **fields, "sequence_number": number})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
