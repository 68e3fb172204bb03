"""The fields of request bodies that are neither honoured nor always rejected: accepted where they change no answer.

Together with the schemas' own fields and UNSUPPORTED this is a closed table: any other field is rejected by name, since
a field that is taken and ignored gives a free answer to whoever asked for something else.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.router.requests.errors import InvalidRequest

MAX_SHOWN = 60  # characters of a field's name

# About the caller or the server's own work, not about the answer.
HARMLESS = frozenset(
    {
        *("user", "safety_identifier", "metadata", "prompt_cache_key", "prompt_cache_retention"),
        *("prompt_cache_options", "request_id", "prediction"),
    }
)

# Rejected unless they have one of these values, which ask for what happens anyway; null does, always.
ONLY_AS: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),
    "audio": (),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "guided_decoding_backend": ("auto", "guidance"),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "spaces_between_special_tokens": (True,),
    "store": (False,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
}

# Fields that would change the answer's meaning if they were ignored, and why they are rejected.
UNSUPPORTED: Mapping[str, str] = {
    "best_of": "use n",
    "chat_template": "templates come with the model",
    "function_call": "use tools and tool_choice",
    "functions": "use tools and tool_choice",
    "grammar": "use structured_outputs",
    "json_schema": "use response_format",
    "kv_transfer_params": "caches are not exchanged with other servers",
    "logits_processors": "code of a request is not run",
    "logprob_token_ids": "logprobs are those of the likeliest tokens",
    "mm_processor_kwargs": "only text is taken",
    "moderation": "answers are not moderated",
    "prompt_embeds": "only text and token ids are taken",
    "regex": "use structured_outputs",
    "structural_tag": "use tools, or structured_outputs with a grammar",
    "suffix": "this model does not fill in the middle",
    "vllm_xargs": "there are no extensions",
    "web_search_options": "nothing is searched",
}
# What says "off" for them, beside null.
OFF: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "function_call": ("none",),
    "functions": ([],),
    "suffix": ("",),
}


@dataclass(frozen=True)
class FieldTable:
    """What a route does with the fields that its schema lacks; the same for an object within a body."""

    harmless: frozenset[str] = frozenset()
    only_as: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    off: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


CHAT = FieldTable(HARMLESS, ONLY_AS, UNSUPPORTED, OFF)
STREAM_OPTIONS = FieldTable(only_as={"include_obfuscation": (False,)})


def check_known(value: Mapping[str, Any], honoured: Container[str], table: FieldTable = CHAT) -> None:
    """Raises InvalidRequest for the first field that is neither honoured nor harmless as it is."""
    for name, given in value.items():
        if name in honoured or name in table.harmless:
            continue
        if name in table.unsupported:
            accepted, code = table.off.get(name, ()), "unsupported_parameter"
            message = f"{name} is not supported: {table.unsupported[name]}."
        elif name in table.only_as:
            accepted, code = table.only_as[name], "unsupported_value"
            message = f"{name} is supported only as {' or '.join(map(repr, accepted)) or 'null'}."
        else:
            name = name[:MAX_SHOWN]
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if given is not None and not _is_one_of(given, accepted):
            raise InvalidRequest(message, param=name, code=code)


def _is_one_of(given: Any, accepted: tuple[Any, ...]) -> bool:
    """Compares with types: 1 is not True, but 1.0 is 1."""
    return any(given == each and isinstance(given, bool) is isinstance(each, bool) for each in accepted)
