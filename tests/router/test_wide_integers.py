"""Integers of more than 64 bits, in what clients send and in what models write, are no reason for an error."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from support.fake_attention import answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

WIDE = 10**23
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer", "maximum": WIDE}}}


def post(router: Harness, path: str, **body: Any) -> Any:
    answer = httpx2.post(router.url + path, json={"model": MODEL, **body}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def test_in_a_block_of_messages(router: Harness) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"n": WIDE}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    tools = [{"name": "f", "input_schema": PARAMETERS}]
    post(router, "/v1/messages", max_tokens=20, messages=said, tools=tools)
    assert str(WIDE) in router.assets.tokenizer.decode(list(router.fakes[0].requests[-1].prompt_ids))


def test_in_a_tool_of_responses(router: Harness) -> None:
    tools = [{"type": "function", "name": "f", "parameters": PARAMETERS}]
    answer = post(router, "/v1/responses", input="hi", tools=tools, store=False).json()
    assert answer["tools"][0]["parameters"]["properties"]["n"]["maximum"] == WIDE
    streamed = post(router, "/v1/responses", input="hi", tools=tools, store=False, stream=True).text
    assert "response.completed" in streamed


def test_in_what_a_model_writes(router: Harness) -> None:
    call = f'<longcat_tool_call>\n{{"name": "f", "arguments": {{"n": {WIDE}}}}}\n</longcat_tool_call>'
    router.fakes[0].script = answers_with(router.ids(call), eos=EOS)
    tools = [{"name": "f", "input_schema": PARAMETERS}]
    said = [{"role": "user", "content": "hi"}]
    answer = post(router, "/v1/messages", max_tokens=200, messages=said, tools=tools)
    assert json.loads(answer.text)["content"][0]["input"]["n"] == WIDE
