"""The items of a conversation: what a request sends, and what is stored of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StrictStr, Tag, TypeAdapter

from services.router.gateway.output_schemas import FAIL_FAST

TEXT_PARTS = ("input_text", "output_text", "text", "refusal")
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
MAX_ITEMS = 4096  # of one request
SHOWN = 40  # characters of a type in an error


class Item(BaseModel):
    """Fields that are not read here are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def one_type(value: Any, supported: tuple[str, ...], default: str | None = None) -> Any:
    """Returns the value if its `type` is supported. Raises ValueError that names the type."""
    kind = value.get("type", default) if isinstance(value, dict) else default
    if isinstance(kind, str) and kind not in supported:
        raise ValueError(f"type {kind[:SHOWN]!r} is not supported; these are: {', '.join(supported)}")
    return value


def text_or_list(value: Any) -> str:
    """The branch of a field that is a text or a list."""
    return "a text" if isinstance(value, str) else "a list"


class TextPart(Item):
    """A piece of text: of a message that comes in, of an answer, or what another model declined to answer with."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        json_schema_extra={
            "oneOf": [
                {"properties": {"type": {"const": "refusal"}}, "required": ["refusal"]},
                {
                    "properties": {"type": {"enum": [kind for kind in TEXT_PARTS if kind != "refusal"]}},
                    "required": ["text"],
                },
            ]
        },
    )

    type: StrictStr
    text: StrictStr = ""
    declined: Annotated[StrictStr, Field(alias="refusal")] = ""

    @property
    def content(self) -> str:
        return self.declined if self.type == "refusal" else self.text


def _part(value: Any) -> Any:
    one_type(value, TEXT_PARTS)
    if isinstance(value, dict):
        name = "refusal" if value.get("type") == "refusal" else "text"
        if value.get(name) is None:
            raise ValueError(f"{name} is required")
    return value


Part = Annotated[TextPart, BeforeValidator(_part)]
Content = Annotated[
    Annotated[StrictStr, Tag("a text")] | Annotated[list[Part], FAIL_FAST, Tag("a list")], Discriminator(text_or_list)
]


def text_of(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.content for part in content)


class MessageItem(Item):
    type: Literal["message"] = "message"
    id: StrictStr | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    status: StrictStr | None = None


class FunctionCallItem(Item):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    id: StrictStr | None = None
    call_id: StrictStr
    name: StrictStr
    arguments: StrictStr
    status: StrictStr | None = None


class FunctionCallOutputItem(Item):
    """What a call gave."""

    type: Literal["function_call_output"]
    id: StrictStr | None = None
    call_id: StrictStr
    output: Content
    status: StrictStr | None = None


class ReasoningText(Item):
    type: StrictStr = "reasoning_text"
    text: StrictStr


class ReasoningItem(Item):
    """What an earlier answer thought, as this server sent it: readable text in `content`."""

    type: Literal["reasoning"]
    id: StrictStr | None = None
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: StrictStr | None = None
    status: StrictStr | None = None


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else "message"


AnyItem = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem
InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
    BeforeValidator(lambda value: one_type(value, ITEM_TYPES, "message")),
]
ITEMS: TypeAdapter[list[AnyItem]] = TypeAdapter(list[InputItem])
Input = Annotated[
    Annotated[StrictStr, Tag("a text")]
    | Annotated[list[InputItem], Field(max_length=MAX_ITEMS), FAIL_FAST, Tag("a list")],
    Discriminator(text_or_list),
]


def parts_of(item: AnyItem) -> int:
    """How many parts an item has; one if it is a text."""
    content = item.output if isinstance(item, FunctionCallOutputItem) else getattr(item, "content", None)
    return max(1, len(content)) if isinstance(content, list) else 1
