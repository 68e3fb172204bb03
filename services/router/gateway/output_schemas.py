"""Fields of request bodies that constrain the output: formats of answers, and the choice of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, StrictBool, StrictStr, Tag, model_validator

from services.router.gateway.closed_model import Closed
from services.router.gateway.known_fields import FieldTable
from services.router.requests.errors import InvalidRequest

MAX_PATTERN = 64 << 10  # characters of a regular expression or of a grammar
MAX_OPTIONS = 10_000  # of a choice
FAIL_FAST = Field(fail_fast=True)  # of a long list: errors of all of its items would take seconds

JsonSchema = dict[str, Any] | StrictBool
Pattern = Annotated[StrictStr, Field(min_length=1, max_length=MAX_PATTERN)]
Options = Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_OPTIONS), FAIL_FAST]
KINDS = ("json", "regex", "choice", "grammar", "json_object")
OLDER = "guided_"
NO_TAGS = "use tools, or structured_outputs with a grammar"


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

    @model_validator(mode="before")
    @classmethod
    def _no_tags(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") == "structural_tag":
            raise InvalidRequest(
                f"type structural_tag is not supported: {NO_TAGS}.", param="type", code="unsupported_value"
            )
        return value

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise InvalidRequest(
                "json_schema is required with type json_schema.", param="json_schema", code="missing_required_parameter"
            )
        if self.type != "json_schema" and self.json_schema is not None:
            raise InvalidRequest("json_schema goes with type json_schema alone.", param="json_schema")
        return self


class StructuredOutputs(Closed):
    """What vLLM calls structured_outputs. One of the first five."""

    field_table: ClassVar[FieldTable] = FieldTable(
        harmless=frozenset({"disable_fallback"}),  # there is one library of grammars
        only_as={"disable_additional_properties": (False,)},
        unsupported={"structural_tag": NO_TAGS},
    )

    json_: JsonSchema | StrictStr | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Options | None = None
    grammar: Pattern | None = None
    json_object: StrictBool | None = None
    whitespace_pattern: Pattern | None = None
    disable_any_whitespace: StrictBool | None = None

    _prefix: str = PrivateAttr("structured_outputs.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        check_kinds(self.model_dump(by_alias=True))
        return self

    @classmethod
    def of_older(cls, given: Mapping[str, Any]) -> Self:
        """Returns what a request says in the older fields, without their prefix. Raises InvalidRequest."""
        check_kinds(given, OLDER)
        asked = cls.model_validate(given)
        asked._prefix = OLDER
        return asked

    def field(self, name: str) -> str:
        """What the request calls a field of this object."""
        return self._prefix + name


def check_kinds(given: Mapping[str, Any], prefix: str = "") -> None:
    """Raises InvalidRequest for fields that exclude each other; the later one is to blame."""
    kinds = [name for name in KINDS if given.get(name) is not None and (name, given[name]) != ("json_object", False)]
    spaces = [name for name in ("whitespace_pattern", "disable_any_whitespace") if given.get(name) not in (None, False)]
    for names in (kinds, spaces):
        if len(names) > 1:
            raise InvalidRequest(
                f"{prefix}{names[1]} cannot be combined with {prefix}{names[0]}.", param=prefix + names[1]
            )
    if spaces and not set(kinds) & {"json", "json_object"}:
        raise InvalidRequest(f"{prefix}{spaces[0]} needs json or json_object.", param=prefix + spaces[0])


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


def _choice_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind is None and not isinstance(value, dict):
        return "a name"
    return "some functions" if kind == "allowed_tools" else "a function"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a name")]
    | Annotated[NamedTool, Tag("a function")]
    | Annotated[AllowedToolChoice, Tag("some functions")],
    Discriminator(_choice_kind),
]


def forces_call(choice: ToolChoice | None) -> bool:
    """Whether a tool must be called, so that an answer has no content."""
    allowed = isinstance(choice, AllowedToolChoice) and choice.allowed_tools.mode == "required"
    return choice == "required" or isinstance(choice, NamedTool) or allowed
