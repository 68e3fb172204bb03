"""Checks of schemathesis beside its own: what fits the schema is rejected only for what no schema can say; what was
created is there, unless it was not to be stored."""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response
from schemathesis.specs.openapi.checks import ensure_resource_availability

# Fields that exclude or need each other, ids of other items, sizes in tokens and bytes, grammars.
REASONS = (
    "there is no (tool_use block|function call) with this id before it",
    "tool_choice (needs tools|names a function|allows a function)",
    r"tool_choice\.name is required",
    "stream_options.*stream",
    r"a message of role \w+ has no \w+ blocks",
    "maximum context length",
    r"must be (token ids )?below \d+",
    "Input should be a valid integer",  # JSON Schema calls 1.0 an integer
    "needs a last message of the assistant with text",
    "top_logprobs needs logprobs",
    "min_tokens must be at most max_tokens",
    "needs json or json_object",
    r"^(structured_outputs|guided_\w+|response_format|text\.format|output_config\.format)(\.\w+)*: ",  # no grammar
    r"^tools(\[\d+\](\.\w+)+)?: ",
    "Previous response with id",
    "has no variable",  # of the template, which chat_template_kwargs are to set
    "'prompt_logprobs' are not available when 'stream'",
    "cannot be combined",
    "Cannot cancel a synchronous response",
    "input needs at least one item",
    "contradicts",
    "a stop string has 1 to 256 bytes",
    "after: the response has no such input item",
)


@schemathesis.check
def rejected_for_a_reason(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Fails for a body that fits and is yet answered with 400, unless the error is one of REASONS."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    error = response.json()["error"]
    if not any(re.search(reason, error["message"]) for reason in REASONS):
        raise AssertionError(f"It fits the schema and is rejected: {error}")


@schemathesis.check
def what_was_stored_is_there(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """As schemathesis's own check of created resources, but for responses that were created with `store` false."""
    parent = ctx.internals.find_parent(case_id=case.id)
    body = parent.body if parent is not None else None
    if not (isinstance(body, dict) and body.get("store") is False):
        ensure_resource_availability(ctx, response, case)
