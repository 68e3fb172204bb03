"""What /v1/messages answers with. Clients validate these objects; the OpenAPI document has their schemas."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, Field


class TextBlock(BaseModel):
    type: Literal["text"] = "text"
    text: str = ""


class ThinkingBlock(BaseModel):
    """What the model thought. The signature is a checksum; it is not needed to pass the block back."""

    type: Literal["thinking"] = "thinking"
    thinking: str = ""
    signature: str = ""


class ToolUseBlock(BaseModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


AnswerBlock = TextBlock | ThinkingBlock | ToolUseBlock
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class OutputTokens(BaseModel):
    thinking_tokens: int = 0


class MessageUsage(BaseModel):
    input_tokens: int
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens_details: OutputTokens = Field(default_factory=OutputTokens)


class MessageObject(BaseModel):
    """An answer, finished or, at the beginning of a stream, not."""

    id: str = Field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock] = Field(default_factory=list)
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class TokenCount(BaseModel):
    """POST /v1/messages/count_tokens"""

    input_tokens: int


class MessagesErrorDetail(BaseModel):
    type: str
    message: str


class MessagesErrorBody(BaseModel):
    """Every response of /v1/messages that is not a success has this body."""

    type: Literal["error"] = "error"
    error: MessagesErrorDetail
    request_id: str
