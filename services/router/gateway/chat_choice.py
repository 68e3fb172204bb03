"""One choice of a chat answer: its text, parsed into content, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from caracal_proto import attention_pb2

from services.router.gateway.event_ids import EventIds
from services.router.gateway.event_stream import write_events
from services.router.gateway.logprobs import Logprobs
from services.router.gateway.output_parser import Delta, OutputParser
from services.router.gateway.output_schemas import NamedTool, forces_call
from services.router.gateway.output_tags import END_THINK, THINK
from services.router.gateway.response import ChunkUsage, Envelope
from services.router.gateway.schemas import ChatRequest, StreamOptions
from services.router.gateway.streaming import Client
from services.router.gateway.tool_calls import CallCheck
from services.router.requests.choice_stream import ChoiceStream, TextDelta


class ChatChoice:
    """Reads its stream to the end. `thinking`: the prompt has opened a reasoning block."""

    def __init__(self, choice_stream: ChoiceStream, index: int, body: ChatRequest, *, thinking: bool) -> None:
        self.choice_stream = choice_stream
        self.index = index
        self.wants_logprobs = bool(body.logprobs)
        self._logprobs = Logprobs(choice_stream.vocabulary, as_ids=bool(body.return_tokens_as_token_ids))
        self.wants_ids = bool(body.return_token_ids)
        self.finish_reason: str | None = None
        schemas = {tool.function.name: tool.function.parameters or {} for tool in body.tools or []}
        self._named = isinstance(body.tool_choice, NamedTool)
        self._hidden = _hidden(body)
        self._calls_so_far, self._takes_tools = CallCheck(), bool(schemas)
        self.echo = _echo(body)
        self._parser = OutputParser(schemas or None, reasoning=thinking, tokens=choice_stream.vocabulary.added.keys())
        added = choice_stream.vocabulary.added
        self._think, self._end_think, self._reasons = added.get(THINK), added.get(END_THINK), thinking
        self._deltas: list[Delta] = []
        self._tokens: list[attention_pb2.Token] = []
        self._prompt_logprobs = body.prompt_logprobs
        self._prompt: list[attention_pb2.Token] = []

    def parse(self, text_delta: TextDelta) -> list[Delta]:
        """Returns the parts that a text delta completes; sets `finish_reason` with the last."""
        deltas = self._parser.push(text_delta.text, text_delta.tags) if text_delta.text else []
        self._count_reasoning(text_delta.tokens)
        if text_delta.finish_reason:
            stopped = isinstance(self.choice_stream.stop_reason, str)
            deltas += self._parser.finish(cut=text_delta.finish_reason == "length", stopped=stopped)
        if self._hidden:
            deltas = [delta for delta in deltas if delta.kind not in self._hidden]
        if self._takes_tools:
            for delta in deltas:
                if delta.tool is not None:
                    self._calls_so_far.push(delta.tool)
        if text_delta.finish_reason:
            self.finish_reason = self._reason(text_delta.finish_reason)
        return deltas

    def _reason(self, ended: str) -> str:
        """Why the answer ended, in OpenAI's words."""
        called = self._parser.calls and "tool" not in self._hidden
        # For a call that the client itself has named it is "stop"; a client is to run no call that is broken.
        if ended != "stop" or not called or self._named:
            return ended
        return "tool_calls" if self._calls_so_far.finish() else "stop"

    def _count_reasoning(self, tokens: Sequence[attention_pb2.Token]) -> None:
        """Counts the tokens between the tags: exactly where those are tokens, else by the deltas that end within."""
        if self._end_think is None:
            self.choice_stream.reasoning_tokens += len(tokens) if self._parser.reasoning else 0
            return
        for token in tokens:
            if token.id in (self._think, self._end_think):
                self._reasons = token.id == self._think
            else:
                self.choice_stream.reasoning_tokens += self._reasons

    def prompt_scores(self) -> dict[str, Any]:
        """Returns the answer's field `prompt_logprobs`, if it is asked for."""
        if self._prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": self._logprobs.prompt(self._prompt, self._prompt_logprobs)}

    def logprobs(self, tokens: list[attention_pb2.Token]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        return {"content": self._logprobs.chat(tokens), "refusal": None}  # OpenAI's field

    async def run(self) -> None:
        """Reads everything, for an answer that is not streamed."""
        with self.choice_stream as choice_stream:
            while self.finish_reason is None:
                text_delta = await choice_stream.next()
                self._deltas += self.parse(text_delta)
                self._tokens += text_delta.tokens
                self._prompt += text_delta.prompt

    def message(self) -> dict[str, Any]:
        """Returns the choice of an answer that is not streamed."""
        content = self.echo + "".join(delta.text for delta in self._deltas if delta.kind == "content")
        reasoning = "".join(delta.text for delta in self._deltas if delta.kind == "reasoning")
        calls = self._calls()
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
        if reasoning:
            message |= {"reasoning": reasoning, "reasoning_content": reasoning}
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": self.index,
            "message": message,
            "logprobs": self.logprobs(self._tokens),
            "finish_reason": self.finish_reason,
            "stop_reason": self.choice_stream.stop_reason,
        }
        if self.wants_ids:
            choice["token_ids"] = [token.id for token in self._tokens]
        return choice

    def _calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        for step in (delta.tool for delta in self._deltas if delta.tool is not None):
            if step.name is not None:
                function = {"name": step.name, "arguments": ""}
                calls.append({"id": step.call_id, "type": "function", "function": function})
            calls[step.index]["function"]["arguments"] += step.arguments
        return calls


def _hidden(body: ChatRequest) -> frozenset[str]:
    """The kinds of parts that the answer is not to have."""
    kinds = {
        "reasoning": body.include_reasoning is False,
        "tool": body.tool_choice == "none",
        "content": bool(body.tools) and forces_call(body.tool_choice),
    }
    return frozenset(kind for kind, hidden in kinds.items() if hidden)


def _echo(body: ChatRequest) -> str:
    """The text of the last message where the answer is to begin with it: as in vLLM, where both are the assistant's."""
    last = body.messages[-1]
    if not body.echo or last.role != "assistant" or last.content is None:
        return ""
    return last.content if isinstance(last.content, str) else "".join(part.text or "" for part in last.content)


class ChatChunks:
    """Writes a choice's events. The usual event, content alone, is joined from bytes that are made once per stream."""

    def __init__(
        self, envelope: Envelope, choice: ChatChoice, options: StreamOptions | None, ids: EventIds | None = None
    ) -> None:
        """`ids`: what numbers the events; for a client that may go on with them."""
        self._ids = ids.of(choice.choice_stream) if ids is not None else None
        self._envelope = envelope
        self._choice = choice
        self._usage = ChunkUsage(options, choice.choice_stream)
        self._head = b""
        self._unsent: list[attention_pb2.Token] = []
        self._detailed = choice.wants_logprobs or choice.wants_ids

    async def write(self, client: Client) -> None:
        """Writes the events as the text comes in."""
        await write_events(self._choice.choice_stream, client, self._events, self._ids)

    def _events(self, text_delta: TextDelta) -> bytes:
        choice = self._choice
        events = self._opening() if not self._head else b""
        if self._detailed:
            self._unsent += text_delta.tokens
        for delta in choice.parse(text_delta):
            events += self._event(delta)
        return events if choice.finish_reason is None else events + self._full({}, choice.finish_reason)

    def _opening(self) -> bytes:
        self._envelope.fingerprint = self._choice.choice_stream.numerics_class
        self._head = self._envelope.head(f'{{"index":{self._choice.index},"delta":{{')
        return self._plain(b'"role":"assistant","content":' + orjson.dumps(self._choice.echo))

    def _plain(self, delta: bytes) -> bytes:
        return self._head + delta + b'},"logprobs":null,"finish_reason":null}]' + self._usage.end()

    def _event(self, delta: Delta) -> bytes:
        if self._detailed:
            return self._full(delta_fields(delta), None)
        if delta.kind == "content":
            return self._plain(b'"content":' + orjson.dumps(delta.text))
        return self._plain(orjson.dumps(delta_fields(delta))[1:-1])

    def _full(self, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice, tokens = self._choice, self._unsent
        self._unsent = []
        fields: dict[str, Any] = {
            "index": choice.index,
            "delta": delta,
            "logprobs": choice.logprobs(tokens) if tokens else None,
            "finish_reason": finish_reason,
        }
        if finish_reason is not None:
            fields["stop_reason"] = choice.choice_stream.stop_reason
        if choice.wants_ids:
            fields["token_ids"] = [token.id for token in tokens]
        return self._envelope.event([fields], **self._usage.fields())


def delta_fields(delta: Delta) -> dict[str, Any]:
    """Returns a part as the `delta` field of a chunk."""
    if delta.kind == "content":
        return {"content": delta.text}
    if delta.tool is None:
        return {"reasoning": delta.text, "reasoning_content": delta.text}
    call: dict[str, Any] = {"index": delta.tool.index}
    if delta.tool.name is not None:
        call |= {"id": delta.tool.call_id, "type": "function"}
    call["function"] = {"name": delta.tool.name} if delta.tool.name is not None else {}
    call["function"]["arguments"] = delta.tool.arguments
    return {"tool_calls": [call]}
