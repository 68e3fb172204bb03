"""Fields of POST /v1/responses that are not honoured: accepted where they change no answer, else rejected by name."""

from __future__ import annotations

from services.router.gateway.known_fields import HARMLESS, FieldTable

BODY = FieldTable(
    harmless=(HARMLESS - {"metadata"})
    | {
        "client_metadata",  # of Codex
        "max_tool_calls",  # counts calls of the server's own tools, of which there are none
    },
    only_as={
        "background": (False,),
        "context_management": ([],),
        "image": ({}, {"context_compression": "auto"}, {"context_compression": "disabled"}),
        "service_tier": ("auto", "default"),
    },
    unsupported={
        "access_programs": "there are no such programs",
        "background_options": "nothing runs in the background",
        "conversation": "use previous_response_id",
        "moderation": "answers are not moderated",
        "prompt": "there are no stored prompts",
    },
)
STREAM_OPTIONS = FieldTable(only_as={"include_obfuscation": (False,), "include_usage": (True,)})  # always there
REASONING = FieldTable(
    only_as={
        "context": ("auto",),
        "generate_summary": ("auto",),
        "mode": ("standard",),
        "summary": ("auto",),
    }
)
TEXT = FieldTable(only_as={"verbosity": ("medium",)})
TOOL = FieldTable(
    harmless=frozenset({"output_schema"}),  # of the result, which the caller makes
    only_as={"async": (False,), "defer_loading": (False,), "allowed_callers": (["direct"],)},
)
