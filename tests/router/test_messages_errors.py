"""Invalid Messages requests: Anthropic's error format whatever is wrong, naming the caller's field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import CONTEXT
from support.gateway_harness import MODEL, Harness

HI = {"role": "user", "content": "hi"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
TOOL = {"name": "f", "input_schema": {}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


# Fields of the body, and how the message begins.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no_max_tokens": ({"max_tokens": None}, "max_tokens"),
    "max_tokens_zero": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens_context": ({"max_tokens": CONTEXT}, "This model's maximum context length is 512 tokens"),
    "no_messages": ({"messages": []}, "messages"),
    "messages_text": ({"messages": "hi"}, "messages"),
    "message_number": ({"messages": [HI, 3]}, "messages[1]"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "no_content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content_number": ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    "image": ({"messages": [user({"type": "image", "source": {}})]}, "messages[0].content[0]: type 'image'"),
    "block_without_text": ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
    "block_without_type": ({"messages": [user({"text": "a"})]}, "messages[0].content[0]"),
    "server_block": (
        {"messages": [HI, {"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
        "messages[1].content[0]: type 'server_tool_use'",
    ),
    "result_of_no_use": (
        {"messages": [user({"type": "tool_result", "tool_use_id": "x"})]},
        "messages[0].content[0].tool_use_id",
    ),
    "result_image": (
        {"messages": [HI, USE, user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]})]},
        "messages[2].content[0].content[0]: type 'image'",
    ),
    "result_of_assistant": (
        {"messages": [HI, {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
        "messages[1].content[0]: a message of role assistant has no tool_result blocks",
    ),
    "use_of_user": ({"messages": [user(USE["content"][0])]}, "messages[0].content[0]: a message of role user"),
    "use_input": (
        {
            "messages": [
                HI,
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": 1}]},
            ]
        },
        "messages[1].content[0].input",
    ),
    "prefill": ({"messages": [HI, {"role": "assistant", "content": ""}]}, "messages[1] needs a last message"),
    "system_number": ({"system": 3}, "system"),
    "system_image": ({"system": [{"type": "image"}]}, "system[0]: type 'image'"),
    "temperature": ({"temperature": 3}, "temperature"),
    "top_k": ({"top_k": -1}, "top_k"),
    "stop_sequences": ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
    "stop_sequences_text": ({"stop_sequences": "a"}, "stop_sequences"),
    "stream": ({"stream": "yes"}, "stream"),
    "server_tool": ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]: type 'web_search"),
    "tool_name": ({"tools": [TOOL, TOOL | {"name": "a b"}]}, "tools[1].name"),
    "tool_schema": ({"tools": [{"name": "f"}]}, "tools[0].input_schema is required"),
    "tool_field": ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
    "tool_choice": ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
    "tool_choice_name": ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    "tool_choice_without_tools": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "thinking_type": ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    "thinking_budget": ({"thinking": {"type": "enabled", "budget_tokens": -5}}, "thinking.budget_tokens"),
    "thinking_without_effect": ({"thinking": {"type": "enabled"}}, "thinking: this model's chat template"),
    "effort": ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    "format": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema is required"),
    "context_management": ({"context_management": {"edits": [{"type": "clear_tool_uses"}]}}, "context_management"),
    "container": ({"container": "c"}, "container"),
    "mcp_servers": ({"mcp_servers": [{}]}, "mcp_servers"),
    "unknown": ({"max_completion_tokens": 5}, "Unknown parameter: 'max_completion_tokens'"),
    "n": ({"n": 2}, "Unknown parameter: 'n'"),
}


def post(router: Harness, body: Any, path: str = "/v1/messages", **options: Any) -> httpx2.Response:
    return httpx2.post(router.url + path, json=body, **options)


def check_format(answer: httpx2.Response, kind: str) -> str:
    """Checks that an error has Anthropic's form; returns its message."""
    body = answer.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert set(body["error"]) == {"type", "message"}
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    return str(body["error"]["message"])


@pytest.mark.parametrize("name", CASES)
def test_a_bad_field_is_named(router: Harness, name: str) -> None:
    fields, message = CASES[name]
    answer = post(router, {"model": MODEL, "max_tokens": 10, "messages": [HI]} | fields)
    assert answer.status_code == 400, answer.text
    assert check_format(answer, "invalid_request_error").startswith(message), answer.text
    assert not router.fakes[0].requests


def test_the_client_raises_the_error_of_each_kind(router: Harness) -> None:
    client = router.anthropic()
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        client.messages.create(model="claude-opus-5", max_tokens=5, messages=[HI])  # type: ignore[list-item]
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.messages.count_tokens(model=MODEL, messages=[user({"type": "image"})])  # type: ignore[list-item]
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model=MODEL, max_tokens=5, messages=[HI | {"content": "x" * (5 << 20)}])  # type: ignore[list-item]
    assert caught.value.status_code == 413
    assert "request_too_large" in str(caught.value.body)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_errors_before_a_body_is_read(router: Harness, path: str) -> None:
    json = {"content-type": "application/json"}
    for data, headers in ((b"{", json), (b"", json), (b"[1]", json), (b"{" * 99, json)):
        answer = httpx2.post(router.url + path, content=data, headers=headers)
        assert answer.status_code == 400
        check_format(answer, "invalid_request_error")
    answer = httpx2.post(router.url + path, content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    check_format(answer, "invalid_request_error")
    answer = httpx2.post(router.url + path, content=b"{}", headers=json | {f"x-{i}": "1" for i in range(101)})
    assert answer.status_code == 431
    check_format(answer, "invalid_request_error")
    answer = httpx2.get(router.url + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    check_format(answer, "invalid_request_error")


def test_other_routes_below_messages(router: Harness) -> None:
    answer = post(router, {}, "/v1/messages/batches")
    assert answer.status_code == 404
    check_format(answer, "not_found_error")
    assert "param" in post(router, {}, "/v1/messagesx").json()["error"], "not a route of that API"


def test_nobody_can_serve(assets_path: Path) -> None:
    with Harness(assets_path, FakeAttention(answers_with([70]))) as router:
        router.directory.workers = [router.fakes[0].record(draining=True)]
        router.do(router.serving.attention_workers.refresh())
        answer = post(router, {"model": MODEL, "max_tokens": 5, "messages": [HI]})
        assert answer.status_code == 503
        check_format(answer, "overloaded_error")
        assert answer.headers["retry-after"] == "1"
