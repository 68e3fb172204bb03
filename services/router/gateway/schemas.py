"""Request bodies of the public API: known fields are checked strictly, others by known_fields.py.

In the objects within a body, such as messages and tools, unknown fields are kept: templates may read them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from services.router.gateway.chat_messages import Lenient, Messages
from services.router.gateway.closed_model import Closed
from services.router.gateway.known_fields import STREAM_OPTIONS, FieldTable
from services.router.gateway.output_schemas import (
    FAIL_FAST,
    OLDER,
    JsonSchema,
    Options,
    Pattern,
    ResponseFormat,
    StructuredOutputs,
    ToolChoice,
)
from services.router.requests.errors import InvalidRequest

MAX_CHOICES = 8
MAX_STOPS = 64
MAX_IDS = 1 << 18
MAX_STOP_BYTES = 256
MAX_LOGIT_BIAS = 300
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 128
MAX_BAD_WORDS = 128
MAX_BAD_WORD = 256  # characters
MAX_CACHE_SALT = 256  # characters

GUIDED = ("json", "regex", "choice", "grammar", "whitespace_pattern")
Number = StrictFloat  # which takes integers too
SOME = Field(json_schema_extra={"minItems": 1})
Finite = Field(allow_inf_nan=False)


def number(low: float, high: float) -> Any:
    return Field(ge=low, le=high, allow_inf_nan=False)


_STOP: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES}
_STOP_LIST: dict[str, Any] = {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}
STOPS, STOP_LIST = WithJsonSchema({"anyOf": [_STOP, _STOP_LIST]}), WithJsonSchema(_STOP_LIST)
TRUNCATED = WithJsonSchema({"type": "integer", "anyOf": [{"const": -1}, {"minimum": 1}], "maximum": 2**31 - 1})
ToolName = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


Priority = Annotated[StrictInt, number(-(2**31), 2**31 - 1)]
CacheSalt = Annotated[StrictStr, Field(min_length=1, max_length=MAX_CACHE_SALT)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class StreamOptions(Closed):
    field_table: ClassVar[FieldTable] = STREAM_OPTIONS

    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None


class Sampled(Lenient):
    """Fields that chat completions and completions share."""

    model: StrictStr | None = None
    n: Annotated[StrictInt, number(1, MAX_CHOICES)] | None = None
    max_tokens: Annotated[StrictInt, number(1, 2**31 - 1)] | None = None
    min_tokens: Annotated[StrictInt, number(0, 2**31 - 1)] | None = None
    temperature: Annotated[Number, number(0, 2)] | None = None
    top_p: Annotated[Number, number(0, 1)] | None = None
    top_k: Annotated[StrictInt, number(-1, 2**31 - 1)] | None = None
    min_p: Annotated[Number, number(0, 1)] | None = None
    presence_penalty: Annotated[Number, number(-2, 2)] | None = None
    frequency_penalty: Annotated[Number, number(-2, 2)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    logit_bias: Annotated[dict[str, Annotated[Number, number(-100, 100)]], Field(max_length=MAX_LOGIT_BIAS)] | None = (
        None
    )
    truncate_prompt_tokens: Annotated[StrictInt, number(-1, 2**31 - 1), TRUNCATED] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[Annotated[str, Field(strict=True)] | list[StrictStr], STOPS] | None = None
    stop_token_ids: Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(max_length=64), FAIL_FAST] | None = None
    ignore_eos: StrictBool | None = None
    include_stop_str_in_output: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    return_token_ids: StrictBool | None = None
    return_tokens_as_token_ids: StrictBool | None = None
    allowed_token_ids: Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1), FAIL_FAST] | None = None
    bad_words: (
        Annotated[
            list[Annotated[StrictStr, Field(min_length=1, max_length=MAX_BAD_WORD)]], Field(max_length=MAX_BAD_WORDS)
        ]
        | None
    ) = None
    prompt_logprobs: Annotated[StrictInt, number(0, MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | StrictStr | None = None
    guided_regex: Pattern | None = None
    guided_choice: Options | None = None
    guided_grammar: Pattern | None = None
    guided_whitespace_pattern: Pattern | None = None
    cache_salt: CacheSalt | None = None
    priority: Priority | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop strings")
        if any(not 1 <= len(text.encode()) <= MAX_STOP_BYTES for text in stops):
            raise ValueError(f"a stop string has 1 to {MAX_STOP_BYTES} bytes")
        return stop

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _leaves_a_prompt(cls, tokens: int | None) -> int | None:
        if tokens == 0:
            raise ValueError("-1, for as many as fit, or at least 1")
        return tokens

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
            )
        return self

    @model_validator(mode="after")
    def _no_scores_in_a_stream(self) -> Self:
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest(
                "'prompt_logprobs' are not available when 'stream' is enabled.", param="prompt_logprobs"
            )
        return self

    @model_validator(mode="after")
    def _constraints_end_by_themselves(self) -> Self:
        constrained = self.constraint is not None or (self.response_format and self.response_format.type != "text")
        if constrained and (self.min_tokens or self.ignore_eos):
            field = "min_tokens" if self.min_tokens else "ignore_eos"
            raise InvalidRequest(
                f"{field} cannot be combined with a format: where it is complete, the answer ends.", param=field
            )
        return self

    @property
    def constraint(self) -> StructuredOutputs | None:
        """structured_outputs, also in its older spelling. Raises InvalidRequest for fields that exclude each other."""
        older = {name: getattr(self, OLDER + name) for name in GUIDED}
        older = {name: value for name, value in older.items() if value is not None}
        if self.structured_outputs is None:
            return StructuredOutputs.of_older(older) if older else None
        if older:
            field = OLDER + next(iter(older))
            raise InvalidRequest(f"{field} cannot be combined with structured_outputs.", param=field)
        return self.structured_outputs

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class ToolFunction(Lenient):
    name: ToolName
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class Tool(Lenient):
    type: Literal["function"]
    function: ToolFunction
    _as_sent: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, check: ModelWrapValidatorHandler[Tool]) -> Tool:
        tool = check(value)
        if isinstance(value, dict):
            function = {name: field for name, field in value["function"].items() if field is not None}
            tool._as_sent = {name: field for name, field in value.items() if field is not None} | {"function": function}
        return tool

    @property
    def as_sent(self) -> dict[str, Any]:
        """The tool's JSON object with its fields in the client's order, in which templates show them to the model.

        A field of the function that is null is left out.
        """
        return self._as_sent


class Thinking(BaseModel):
    """Whether the model shall think before it answers, in LongCat's API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["enabled", "disabled"]
    budget_tokens: Annotated[StrictInt, Field(ge=0)] | None = None


class TemplateOptions(Lenient):
    """What a request says to the chat template beside its messages."""

    tools: Annotated[list[Tool], Field(max_length=128), FAIL_FAST] | None = None
    add_generation_prompt: StrictBool | None = None
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking: Thinking | None = None
    enable_thinking: StrictBool | None = None
    reasoning_effort: Effort | None = None


class ChatRequest(Sampled, TemplateOptions):
    """POST /v1/chat/completions"""

    messages: Messages
    max_completion_tokens: Annotated[StrictInt, number(1, 2**31 - 1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, number(0, MAX_TOP_LOGPROBS)] | None = None
    parallel_tool_calls: StrictBool | None = None
    echo: StrictBool | None = None
    include_reasoning: StrictBool | None = None
    thinking_token_budget: Annotated[StrictInt, Field(ge=0)] | None = None
    thinking_budget: Annotated[StrictInt, Field(ge=0)] | None = None
    tool_choice: ToolChoice | None = None


Ids = Annotated[list[Annotated[StrictInt, Field(ge=0)]], FAIL_FAST]
PROMPT_KINDS = {str: "texts", int: "ids", list: "lists of ids"}


def _prompt_kind(prompt: Any) -> str:
    if not isinstance(prompt, list) or not prompt:
        return "a text" if not isinstance(prompt, list) else "texts"
    return PROMPT_KINDS.get(type(prompt[0]), "texts")


PromptText = Annotated[StrictStr, Field(json_schema_extra={"minLength": 1})]
Prompt = Annotated[
    Annotated[PromptText, Tag("a text")]
    | Annotated[list[PromptText], Field(max_length=MAX_PROMPTS), FAIL_FAST, SOME, Tag("texts")]
    | Annotated[Ids, SOME, Tag("ids")]
    | Annotated[list[Annotated[Ids, SOME]], Field(max_length=MAX_PROMPTS), FAIL_FAST, SOME, Tag("lists of ids")],
    Discriminator(_prompt_kind),
]


class CompletionRequest(Sampled):
    """POST /v1/completions"""

    takes_ids: ClassVar[bool] = True

    prompt: Prompt
    max_tokens: Annotated[StrictInt, number(0, 2**31 - 1)] | None = None
    logprobs: Annotated[StrictInt, number(0, MAX_TOP_LOGPROBS)] | None = None
    echo: StrictBool | None = None
    add_special_tokens: StrictBool | None = None


class TokenizeRequest(TemplateOptions):
    """POST /tokenize: a prompt, or messages as in a chat."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [one], "properties": {one: {"not": {"type": "null"}}, other: {"type": "null"}}}
                for one, other in (("prompt", "messages"), ("messages", "prompt"))
            ]
        }
    )

    model: StrictStr | None = None
    prompt: StrictStr | None = None
    messages: Messages | None = None
    tool_choice: ToolChoice | None = None
    add_special_tokens: StrictBool | None = None
    return_token_strs: StrictBool | None = None


class DetokenizeRequest(Lenient):
    """POST /detokenize"""

    takes_ids: ClassVar[bool] = True

    model: StrictStr | None = None
    tokens: Annotated[Ids, Field(max_length=MAX_IDS)]
