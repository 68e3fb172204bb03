"""What OpenAI's and vLLM's routes answer with, for the OpenAPI document: answers are written without these models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """No field but these is sent."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Answer):
    """Every response that is not a success has this body."""

    error: ErrorDetail


class PromptTokensDetails(Answer):
    cached_tokens: int


class CompletionTokensDetails(Answer):
    reasoning_tokens: int


class Usage(Answer):
    """Token counts. A prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ScoredToken(Answer):
    token: str
    logprob: float
    bytes: list[int]


class SampledToken(ScoredToken):
    top_logprobs: list[ScoredToken]


class ChatLogprobs(Answer):
    content: list[SampledToken]
    declined: None = Field(alias="refusal")  # OpenAI's field


class PromptScore(Answer):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptScore] | None]
FinishReason = Literal["stop", "length", "tool_calls"]
StopReason = int | str


class CalledFunction(Answer):
    name: str
    arguments: str = Field(description="JSON, as the model wrote it")


class CallOfTool(Answer):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Answer):
    """`reasoning_content` is the older name of `reasoning`. Neither is there when the model did not reason."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[CallOfTool] = []


class ChatAnswerChoice(Answer):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason | None = Field(description="the stop string or the id that ended the answer")
    token_ids: list[int] = []


class Identified(Answer):
    id: str
    created: int = Field(description="seconds since 1970")
    model: str
    system_fingerprint: str | None = Field(description="the workers' numerics class: equal ones give equal answers")


class ChatCompletion(Identified):
    """POST /v1/chat/completions. `prompt_logprobs` and `token_ids` are there when they are asked for."""

    object: Literal["chat.completion"]
    choices: list[ChatAnswerChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs = []


class FunctionDelta(Answer):
    name: str = ""
    arguments: str


class CallDelta(Answer):
    """A call's first part has its id, type and name."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta


class ChatDelta(Answer):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[CallDelta] = []


class ChatChunkChoice(Answer):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: StopReason | None = None
    token_ids: list[int] = []


class ChatCompletionChunk(Identified):
    """One event of a streamed chat; the last one, if the usage is asked for, has no choices. Then comes `[DONE]`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionAnswerChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason | None
    token_ids: list[int] = []
    prompt_logprobs: PromptLogprobs = []


class CompletionChunkChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: StopReason | None = None
    token_ids: list[int] = []


class Completion(Identified):
    """POST /v1/completions"""

    object: Literal["text_completion"]
    choices: list[CompletionAnswerChoice]
    usage: Usage


class CompletionChunk(Identified):
    """One event of a streamed completion; the last one, if the usage is asked for, has no choices. Then `[DONE]`."""

    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None


class Tokenized(Answer):
    """POST /tokenize"""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None


class Detokenized(Answer):
    """POST /detokenize"""

    prompt: str


class MessagesEvent(BaseModel):
    """The data of one event of a streamed message, as in Anthropic's API; the event has the name of its type."""

    type: str


class ResponsesEvent(BaseModel):
    """The data of one event of a streamed response, as in OpenAI's API; the event has the name of its type."""

    type: str
    sequence_number: int
