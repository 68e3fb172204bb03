"""The bodies of POST /v1/messages and /v1/messages/count_tokens. Fields that are not here are in fields.py."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
)

from services.router.gateway.chat_messages import MAX_MESSAGES
from services.router.gateway.closed_model import Closed
from services.router.gateway.known_fields import FieldTable
from services.router.gateway.messages_api import fields
from services.router.gateway.output_schemas import FAIL_FAST
from services.router.gateway.responses_api.items import one_type, text_or_list
from services.router.gateway.schemas import STOP_LIST, Effort, Number, ToolName, number

BLOCK_TYPES = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")


class Block(BaseModel):
    """A block of a message. Fields that are not read here, such as cache_control and citations, are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TextBlockParam(Block):
    type: Literal["text"]
    text: StrictStr


TextOnly = Annotated[TextBlockParam, BeforeValidator(lambda value: one_type(value, ("text",)))]
TextContent = Annotated[
    Annotated[StrictStr, Tag("a text")] | Annotated[list[TextOnly], FAIL_FAST, Tag("a list")],
    Discriminator(text_or_list),
]


class ThinkingBlockParam(Block):
    type: Literal["thinking"]
    thinking: StrictStr
    signature: StrictStr | None = None


class RedactedThinkingBlockParam(Block):
    """Another server's reasoning, which only that server can read."""

    type: Literal["redacted_thinking"]
    data: StrictStr


class ToolUseBlockParam(Block):
    type: Literal["tool_use"]
    id: StrictStr
    name: StrictStr
    input: dict[str, Any]


class ToolResultBlockParam(Block):
    type: Literal["tool_result"]
    tool_use_id: StrictStr
    content: TextContent | None = None
    is_error: StrictBool | None = None


BlockParam = Annotated[
    TextBlockParam | ThinkingBlockParam | RedactedThinkingBlockParam | ToolUseBlockParam | ToolResultBlockParam,
    Field(discriminator="type"),
    BeforeValidator(lambda value: one_type(value, BLOCK_TYPES)),
]
Content = Annotated[
    Annotated[StrictStr, Tag("a text")] | Annotated[list[BlockParam], FAIL_FAST, Tag("a list")],
    Discriminator(text_or_list),
]


class MessageParam(Block):
    role: Literal["user", "assistant", "system"]
    content: Content


class CustomTool(Closed):
    """A tool that the caller runs."""

    field_table: ClassVar[FieldTable] = fields.TOOL

    type: Literal["custom"] | None = None
    name: ToolName
    description: StrictStr | None = None
    input_schema: dict[str, Any]
    strict: StrictBool | None = None


Tool = Annotated[CustomTool, BeforeValidator(lambda value: one_type(value, ("custom",)))]


class ToolChoice(Closed):
    type: Literal["auto", "any", "tool", "none"]
    name: StrictStr | None = None
    disable_parallel_tool_use: StrictBool | None = None


class ThinkingConfig(Closed):
    """`display`: with omitted, thinking blocks come without their text."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[StrictInt, number(1, 2**31 - 1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(Closed):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Closed):
    field_table: ClassVar[FieldTable] = fields.OUTPUT_CONFIG

    effort: Effort | None = None
    format: JsonFormat | None = None


class CountTokensRequest(Closed):
    """POST /v1/messages/count_tokens"""

    field_table: ClassVar[FieldTable] = fields.BODY

    model: StrictStr
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MAX_MESSAGES), FAIL_FAST]
    system: TextContent | None = None
    tools: Annotated[list[Tool], Field(max_length=128), FAIL_FAST] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages"""

    max_tokens: Annotated[StrictInt, number(1, 2**31 - 1)]
    stop_sequences: Annotated[list[StrictStr], STOP_LIST, FAIL_FAST] | None = None
    stream: StrictBool | None = None
    temperature: Annotated[Number, number(0, 2)] | None = None
    top_p: Annotated[Number, number(0, 1)] | None = None
    top_k: Annotated[StrictInt, number(0, 2**31 - 1)] | None = None
