"""One answer as a response object: what its request says, and what the model has written so far."""

from __future__ import annotations

import time
from typing import Any

from services.router.gateway.argument_values import is_whole
from services.router.gateway.chat_choice import ChatChoice
from services.router.gateway.logprobs import Logprobs
from services.router.gateway.responses_api.objects import (
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputTokensDetails,
    ReasoningPart,
    ResponseError,
    ResponseObject,
    ResponseUsage,
)
from services.router.gateway.responses_api.reasoning_text import encoded
from services.router.gateway.responses_api.schemas import ResponsesRequest
from services.router.gateway.sections import Section, Tokens
from services.router.requests.choice_stream import ChoiceStream
from services.router.requests.errors import RouterError


class Answer:
    """The response that one choice becomes. `stores`: whether it will be stored."""

    def __init__(self, body: ResponsesRequest, choice: ChatChoice, model: str, *, stores: bool) -> None:
        self._choice = choice
        self.response = response_of(body, choice.choice_stream, model, stores=stores)
        self._logprobs = Logprobs(choice.choice_stream.vocabulary, as_ids=False)
        self._scored, self._encrypts = body.wants_logprobs, body.wants_encrypted_reasoning

    def logprobs(self, tokens: Tokens) -> list[dict[str, Any]]:
        return self._logprobs.chat(tokens) if self._scored else []

    def add(self, section: Section) -> OutputItem:
        """Adds the item that a section begins, or will be."""
        item: OutputItem
        if section.kind == "content":
            item = OutputMessage(status="in_progress")
        elif section.kind == "reasoning":
            item = OutputReasoning(status="in_progress")
        else:
            item = OutputFunctionCall(status="in_progress", call_id=section.call_id, name=section.name)
        self.response.output.append(item)
        return item

    def close(self, section: Section, item: OutputItem) -> None:
        """Gives an item its text and its last status."""
        item.status = self._status(section)
        if isinstance(item, OutputMessage):
            item.content = [OutputText(text=section.text, logprobs=self.logprobs(section.tokens))]
        elif isinstance(item, OutputReasoning):
            item.content = [ReasoningPart(text=section.text)]
            item.encrypted_content = encoded(section.text) if self._encrypts else None
        else:
            item.arguments = section.text

    def finish(self) -> None:
        """Ends a response whose choice has finished."""
        cut = self._choice.finish_reason == "length"
        self.response.status = "incomplete" if cut else "completed"
        self.response.incomplete_details = IncompleteDetails() if cut else None
        self.response.completed_at = None if cut else int(time.time())
        self.response.usage = usage_of(self._choice.choice_stream)
        if not self.response.output:  # an answer without a word, and clients read its text
            self.response.output = [OutputMessage(status="incomplete" if cut else "completed", content=[OutputText()])]

    def fail(self, error: RouterError) -> None:
        self.response.status = "failed"
        self.response.error = ResponseError(code="server_error", message=error.message)

    def _status(self, section: Section) -> ItemStatus:
        cut = section.last and self._choice.finish_reason == "length"
        broken = section.kind == "tool" and not is_whole(section.text)  # a client is to run no such call
        return "incomplete" if cut or broken else "completed"


def response_of(body: ResponsesRequest, choice_stream: ChoiceStream, model: str, *, stores: bool) -> ResponseObject:
    """Returns a response that has not begun. Sampling is shown as it is done, whoever decided it."""
    sampling = choice_stream.sampling
    wanted = body.text.format if body.text is not None else None
    effort = body.reasoning.effort if body.reasoning is not None else None
    chosen = body.tool_choice
    return ResponseObject(
        created_at=int(time.time()),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning={"effort": effort, "summary": None},
        store=stores,
        temperature=round(sampling.temperature, 6),
        text={"format": {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True)},
        tool_choice=chosen or "auto" if isinstance(chosen, str | None) else chosen.model_dump(),
        tools=[tool.model_dump() for tool in body.tools or []],
        top_logprobs=body.top_logprobs or 0,
        top_p=round(sampling.top_p, 6),
    )


def usage_of(choice_stream: ChoiceStream) -> ResponseUsage:
    prompt, completion = choice_stream.prompt_tokens, choice_stream.completion_tokens
    return ResponseUsage(
        input_tokens=prompt,
        input_tokens_details=InputTokensDetails(cached_tokens=choice_stream.cached_tokens),
        output_tokens=completion,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=choice_stream.reasoning_tokens),
        total_tokens=prompt + completion,
    )
