"""Fields of request bodies that constrain the output: formats of answers, and the choice of tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator

MAX_PATTERN = 64 << 10  # characters of a regular expression or of a grammar
MAX_OPTIONS = 10_000  # of a choice
FAIL_FAST = Field(fail_fast=True)  # of a long list: errors of all of its items would take seconds

JsonSchema = dict[str, Any] | StrictBool
Pattern = Annotated[StrictStr, Field(min_length=1, max_length=MAX_PATTERN)]
Options = Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_OPTIONS), FAIL_FAST]


class Closed(BaseModel):
    """Unknown fields are rejected: one that is ignored would leave the output free."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class NamedSchema(Closed):
    """`strict` changes nothing: a schema is always followed."""

    name: StrictStr | None = None
    description: StrictStr | None = None
    json_schema: JsonSchema = Field(default=True, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(Closed):
    """What OpenAI calls response_format."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"properties": {"type": {"enum": ["text", "json_object"]}, "json_schema": {"type": "null"}}},
                {
                    "properties": {"type": {"const": "json_schema"}, "json_schema": {"type": "object"}},
                    "required": ["json_schema"],
                },
            ]
        }
    )

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is required with type json_schema, and only then")
        return self


class StructuredOutputs(Closed):
    """What vLLM calls structured_outputs. One of the first five."""

    json_: JsonSchema | StrictStr | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Options | None = None
    grammar: Pattern | None = None
    json_object: StrictBool | None = None
    whitespace_pattern: Pattern | None = None
    disable_any_whitespace: StrictBool | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = (self.json_, self.regex, self.choice, self.grammar, self.json_object or None)
        if sum(kind is not None for kind in kinds) > 1:
            raise ValueError("only one of json, regex, choice, grammar and json_object")
        return self


class NamedFunction(Closed):
    name: StrictStr


class NamedTool(Closed):
    """The one function that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Closed):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128)]


class AllowedToolChoice(Closed):
    """The functions that may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice
