"""Fields of POST /v1/messages that are not honoured: accepted where they change no answer, else rejected by name."""

from __future__ import annotations

from services.router.gateway.known_fields import FieldTable

KEEPS_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}  # of Claude Code: nothing is cleared

BODY = FieldTable(
    harmless=frozenset({"metadata", "cache_control", "user_profile_id", "workspace_id", "billing_policy"}),
    only_as={
        "context_management": ({}, {"edits": []}, KEEPS_ALL),
        "fallbacks": ([],),
        "mcp_servers": ([],),
        "service_tier": ("auto", "standard_only"),
        "speed": ("standard",),
    },
    unsupported={
        "compaction": "conversations are not compacted",
        "container": "no code is run",
        "diagnostics": "there are no diagnostics",
        "fallback_credit_token": "there is one model",
        "inference_geo": "a request runs where this cluster is",
        "output_format": "use output_config.format",
        "thread": "conversations are not stored here",
    },
)
TOOL = FieldTable(
    harmless=frozenset({"cache_control", "eager_input_streaming"}),
    only_as={"defer_loading": (False,), "allowed_callers": (["direct"],), "input_examples": ([],)},
)
OUTPUT_CONFIG = FieldTable(unsupported={"task_budget": "there is no budget beside max_tokens"})
