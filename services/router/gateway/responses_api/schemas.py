"""The body of POST /v1/responses. Fields that are not here are in fields.py."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from services.router.gateway.closed_model import Closed
from services.router.gateway.known_fields import FieldTable
from services.router.gateway.output_schemas import FAIL_FAST
from services.router.gateway.responses_api import fields
from services.router.gateway.responses_api.items import Input, one_type
from services.router.gateway.schemas import (
    MAX_TOP_LOGPROBS,
    STOPS,
    CacheSalt,
    Effort,
    Number,
    Priority,
    ToolName,
    number,
)
from services.router.requests.errors import InvalidRequest

LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512
INCLUDED = WithJsonSchema({"type": "array", "items": {"enum": [LOGPROBS, ENCRYPTED]}})
METADATA = WithJsonSchema(
    {
        "type": "object",
        "maxProperties": MAX_METADATA,
        "propertyNames": {"maxLength": MAX_KEY},
        "additionalProperties": {"type": "string", "maxLength": MAX_VALUE},
    }
)


class FunctionTool(Closed):
    """A function that the caller runs."""

    field_table: ClassVar[FieldTable] = fields.TOOL

    type: Literal["function"]
    name: ToolName
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class FunctionChoice(Closed):
    type: Literal["function"]
    name: StrictStr


class AllowedTools(Closed):
    """The functions that may be called, of those in `tools`."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1, max_length=128)]


class FormatText(Closed):
    type: Literal["text"]


class FormatJsonObject(Closed):
    type: Literal["json_object"]


class FormatJsonSchema(Closed):
    type: Literal["json_schema"]
    name: StrictStr
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: StrictStr | None = None
    strict: StrictBool | None = None


class TextConfig(Closed):
    field_table: ClassVar[FieldTable] = fields.TEXT

    format: Annotated[FormatText | FormatJsonObject | FormatJsonSchema, Field(discriminator="type")] | None = None


class Reasoning(Closed):
    field_table: ClassVar[FieldTable] = fields.REASONING

    effort: Effort | None = None


class ResponsesStreamOptions(Closed):
    field_table: ClassVar[FieldTable] = fields.STREAM_OPTIONS


def _choice_kind(value: Any) -> str:
    if isinstance(value, str):
        return "a name"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "some functions" if kind == "allowed_tools" else "a function"


Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a name")]
    | Annotated[FunctionChoice, Tag("a function")]
    | Annotated[AllowedTools, Tag("some functions")],
    Discriminator(_choice_kind),
    BeforeValidator(lambda value: one_type(value, ("function", "allowed_tools"))),
]
Tool = Annotated[FunctionTool, BeforeValidator(lambda value: one_type(value, ("function",)))]
Metadata = dict[StrictStr, StrictStr]


class ResponsesRequest(Closed):
    """POST /v1/responses"""

    field_table: ClassVar[FieldTable] = fields.BODY

    model: StrictStr | None = None
    input: Input
    instructions: StrictStr | None = None
    previous_response_id: StrictStr | None = None
    store: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: ResponsesStreamOptions | None = None
    max_output_tokens: Annotated[StrictInt, number(1, 2**31 - 1)] | None = None
    temperature: Annotated[Number, number(0, 2)] | None = None
    top_p: Annotated[Number, number(0, 1)] | None = None
    top_k: Annotated[StrictInt, number(-1, 2**31 - 1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[Number, number(-2, 2)] | None = None
    frequency_penalty: Annotated[Number, number(-2, 2)] | None = None
    stop: Annotated[StrictStr | list[StrictStr], STOPS] | None = None
    ignore_eos: StrictBool | None = None
    cache_salt: CacheSalt | None = None
    priority: Priority | None = None
    tools: Annotated[list[Tool], Field(max_length=128), FAIL_FAST] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: StrictBool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[StrictStr], INCLUDED, FAIL_FAST] | None = None
    top_logprobs: Annotated[StrictInt, number(0, MAX_TOP_LOGPROBS)] | None = None
    truncation: Annotated[Literal["auto", "disabled"] | None, WithJsonSchema({"enum": ["disabled", None]})] = None
    metadata: Annotated[Metadata, METADATA] | None = None

    @field_validator("include")
    @classmethod
    def _only_what_there_is(cls, include: list[str] | None) -> list[str] | None:
        check_include(include or [])
        return include

    @field_validator("truncation")
    @classmethod
    def _never_truncated(cls, truncation: str | None) -> str | None:
        if truncation == "auto":
            raise ValueError("auto is not supported: nothing is left out of a conversation")
        return truncation

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, metadata: Metadata | None) -> Metadata | None:
        if len(metadata or {}) > MAX_METADATA:
            raise ValueError(f"at most {MAX_METADATA} keys")
        if any(len(key) > MAX_KEY or len(value) > MAX_VALUE for key, value in (metadata or {}).items()):
            raise ValueError(f"keys have at most {MAX_KEY} characters and values {MAX_VALUE}")
        return metadata

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or []) or bool(self.top_logprobs)

    @property
    def wants_encrypted_reasoning(self) -> bool:
        return ENCRYPTED in (self.include or [])


def check_include(include: list[str]) -> None:
    """Raises ValueError that names what cannot be included."""
    if wrong := [name for name in include if name not in (LOGPROBS, ENCRYPTED)]:
        raise ValueError(f"{wrong[0][:60]!r} is not supported; only {LOGPROBS!r} and {ENCRYPTED!r} are")
