"""The messages of a chat, as requests have them. Unknown fields are kept: templates may read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, WithJsonSchema, model_validator

from services.router.gateway.output_schemas import FAIL_FAST
from services.router.requests.errors import InvalidRequest

MAX_MESSAGES = 4096
NOT_IN_MESSAGES = frozenset({"prefix", "partial", "audio", "refusal", "images", "file_url"})


class Lenient(BaseModel):
    """Extra fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class FunctionCall(Lenient):
    name: StrictStr
    arguments: Any = "{}"  # a model may have written anything


class ToolCall(Lenient):
    id: StrictStr | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ContentPart(Lenient):
    type: Annotated[StrictStr, WithJsonSchema({"enum": ["text", "input_text"]})]
    text: Annotated[StrictStr | None, WithJsonSchema({"type": "string"})] = None
    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})


class ChatMessage(Lenient):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"role": {"const": "assistant"}}},
                {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
            ]
        }
    )

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: StrictStr | Annotated[list[ContentPart], FAIL_FAST] | None = None
    name: StrictStr | None = None
    tool_call_id: StrictStr | None = None
    tool_calls: Annotated[list[ToolCall], FAIL_FAST] | None = None
    function_call: FunctionCall | None = None
    reasoning: StrictStr | None = None
    reasoning_content: StrictStr | None = None
    thinking: StrictStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_ignored(cls, value: Any) -> Any:
        """What other servers take in a message and this one does not; anything else is the chat template's to read."""
        for name in NOT_IN_MESSAGES & value.keys() if isinstance(value, dict) else ():
            if value[name] not in (None, False):
                raise InvalidRequest(f"{name} is not supported.", param=name, code="unsupported_parameter")
        return value


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES), FAIL_FAST]
