"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import orjson
from caracal_proto import attention_pb2
from fastapi import Request

from services.router.gateway.chat_rules import completion_rules
from services.router.gateway.context import GatewayContext
from services.router.gateway.event_ids import ChoiceEvents, EventIds
from services.router.gateway.event_stream import write_events
from services.router.gateway.logprobs import Logprobs
from services.router.gateway.off_loop import off_loop
from services.router.gateway.prompts import completion_ids
from services.router.gateway.request_body import read_model
from services.router.gateway.response import ChunkUsage, Envelope, usage, write_usage
from services.router.gateway.resumption import Resumption
from services.router.gateway.schemas import CompletionRequest, StreamOptions
from services.router.gateway.streaming import Client, GenerationResponse, run_all
from services.router.requests.choice_stream import ChoiceStream, TextDelta, TextRules

DEFAULT_MAX_TOKENS = 16
NO_MORE = b',"logprobs":null,"finish_reason":null}]'


class CompletionChoice:
    """One choice: its text, after the echo of its prompt if the client wants one. `hidden`: ids without text."""

    def __init__(
        self, choice_stream: ChoiceStream, index: int, body: CompletionRequest, echo: str, hidden: Collection[int]
    ) -> None:
        self.choice_stream = choice_stream
        self.index = index
        self._echo = echo
        self._echoes = bool(body.echo)
        self._prompt_logprobs = body.prompt_logprobs
        self._prompt: list[attention_pb2.Token] = []
        self._wants_logprobs, self._top = body.logprobs is not None, body.logprobs or 0
        self._wants_ids = bool(body.return_token_ids)
        self._texts = [echo]
        self._logprobs = Logprobs(choice_stream.vocabulary, as_ids=bool(body.return_tokens_as_token_ids), hidden=hidden)
        self._tokens: list[attention_pb2.Token] = []
        self._finish_reason: str | None = None
        self._head, self._unsent = b"", ""
        self.ids: ChoiceEvents | None = None  # numbers the events, for a client that may go on with them

    async def run(self) -> None:
        """Reads everything, for an answer that is not streamed."""
        with self.choice_stream as choice_stream:
            while self._finish_reason is None:
                delta = await choice_stream.next()
                self._texts.append(delta.text)
                self._tokens += delta.tokens
                self._prompt += delta.prompt
                self._finish_reason = delta.finish_reason

    async def write(self, client: Client, envelope: Envelope, options: StreamOptions | None) -> None:
        """Writes the events as the text comes in."""
        self._envelope, self._usage = envelope, ChunkUsage(options, self.choice_stream)
        await write_events(self.choice_stream, client, self._events, self.ids)

    def _events(self, delta: TextDelta) -> bytes:
        self._prompt += delta.prompt
        if delta.prompt and not delta.tokens and not delta.finish_reason:
            return b""  # the prompt's scores go with the first event
        if not self._head:
            self._envelope.fingerprint = self.choice_stream.numerics_class
            self._head = self._envelope.head(f'{{"index":{self.index},"text":')
            self._unsent = self._echo
        text, self._unsent = self._unsent + delta.text, ""
        self._tokens += delta.tokens
        self._finish_reason = delta.finish_reason
        if delta.finish_reason or (text and (self._wants_logprobs or self._wants_ids)):
            event = self._envelope.event([self.choice(text)], **self._usage.fields())
            self._tokens = []
            return event
        return self._head + orjson.dumps(text) + NO_MORE + self._usage.end() if text else b""

    def choice(self, text: str | None = None) -> dict[str, Any]:
        """Returns the choice with the tokens that were not sent yet."""
        logprobs = None
        if self._wants_logprobs:
            echoed = self._echoed_logprobs()
            logprobs = self._logprobs.completion(self._tokens)
            logprobs = {name: echoed.get(name, []) + values for name, values in logprobs.items()}
        choice: dict[str, Any] = {
            "index": self.index,
            "text": "".join(self._texts) if text is None else text,
            "logprobs": logprobs,
            "finish_reason": self._finish_reason,
            "stop_reason": self.choice_stream.stop_reason,
        }
        if self._wants_ids:
            choice["token_ids"] = [token.id for token in self._tokens]
        if self._prompt_logprobs is not None:
            choice["prompt_logprobs"] = self._logprobs.prompt(self._prompt, self._prompt_logprobs)
        return choice

    def _echoed_logprobs(self) -> dict[str, Any]:
        """The log-probabilities of an echoed prompt, once."""
        echoes, self._echoes = self._echoes, False
        if not echoes:
            return {}
        return self._logprobs.echoed(self.choice_stream.prompt_ids, self._prompt, self._top)


async def completions(gateway: GatewayContext, request: Request) -> GenerationResponse:
    """Checks the request and prepares its choices; the response generates them while the client waits."""
    body = await read_model(request, CompletionRequest)
    gateway.check_model(body.model)
    prompts = await completion_ids(gateway.serving, body, gateway.serving.context_limit)
    recommended = gateway.serving.assets.generation.defaults.max_new_tokens or DEFAULT_MAX_TOKENS
    max_tokens = body.max_tokens
    if max_tokens is None:
        max_tokens = max(min(DEFAULT_MAX_TOKENS, recommended), body.min_tokens or 0)
    output = await completion_rules(body)
    asked = gateway.asked_to_resume(request, body)
    requests = gateway.generation_requests(
        body, prompts, max_tokens, request.state.request_id, "prompt", output, asked.seed if asked else None
    )
    gateway.check_open()
    requests, resumption = gateway.resumed(asked, requests)
    rules = TextRules(
        stop=body.stops,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
    )
    hidden = gateway.serving.assets.vocabulary.special_ids if rules.skip_special_tokens else frozenset()
    choices = [
        CompletionChoice(choice_stream, i, body, echo_of(gateway, body, choice_stream), hidden)
        for i, choice_stream in enumerate(gateway.choice_streams(requests, rules))
    ]
    return GenerationResponse(
        partial(stream if body.stream else whole, gateway, body, choices, resumption), stream=bool(body.stream)
    )


def echo_of(gateway: GatewayContext, body: CompletionRequest, choice: ChoiceStream) -> str:
    if not body.echo:
        return ""
    skip = body.skip_special_tokens is not False
    return gateway.serving.assets.tokenizer.decode(list(choice.prompt_ids), skip_special_tokens=skip)


async def stream(
    gateway: GatewayContext,
    body: CompletionRequest,
    choices: list[CompletionChoice],
    resumption: Resumption | None,
    client: Client,
) -> None:
    envelope = Envelope.of("cmpl", "text_completion", gateway.serving.assets.name, resumption)
    ids = EventIds(resumption) if resumption is not None else None
    for choice in choices:
        choice.ids = ids.of(choice.choice_stream) if ids is not None else None
    await run_all([choice.write(client, envelope, body.stream_options) for choice in choices])
    await write_usage(client, envelope, body.stream_options, [choice.choice_stream for choice in choices], ids)
    await client.end()


async def whole(
    gateway: GatewayContext,
    body: CompletionRequest,
    choices: list[CompletionChoice],
    resumption: Resumption | None,
    client: Client,
) -> None:
    envelope = Envelope.of("cmpl", "text_completion", gateway.serving.assets.name, resumption)
    await run_all([choice.run() for choice in choices])
    choice_streams = [choice.choice_stream for choice in choices]
    envelope.fingerprint = choice_streams[0].numerics_class
    scored = body.prompt_logprobs is not None or (body.echo and body.logprobs is not None)
    answers = await off_loop(shown, choices) if scored else shown(choices)
    await client.whole({**envelope.fields(), "choices": answers, "usage": usage(choice_streams)})


def shown(choices: Sequence[CompletionChoice]) -> list[dict[str, Any]]:
    return [choice.choice() for choice in choices]
