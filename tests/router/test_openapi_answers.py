"""The OpenAPI document against what the routes answer: responses, errors and parameters have their schemas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import jsonschema
import pytest
from caracal_proto import attention_pb2
from support.fake_attention import Script, answers_with, token
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.router.gateway.api_routes import ROUTES
from services.router.gateway.messages_api.objects import MessageObject, MessagesErrorBody
from services.router.gateway.openapi_document import STATUS, StatusRoute
from services.router.gateway.request_examples import EXAMPLES
from services.router.gateway.responses_api.objects import ResponseObject

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def document(router: Harness) -> Any:
    return httpx2.get(router.url + "/openapi.json").json()


def reference(operation: Any, status: str) -> str:
    return str(operation["responses"][status]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2])


def test_every_route_is_in_the_document_with_its_errors(document: Any) -> None:
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert ("requestBody" in operation) == (route.body is not None)
        for status in route.statuses:
            assert reference(operation, str(status)) == route.error.__name__
        if route.answer is not None:
            assert reference(operation, "200") == route.answer.__name__
        assert ("text/event-stream" in operation["responses"].get("200", {}).get("content", {})) == (
            route.event is not None
        )
        assert route.path.count("{") == [p["in"] for p in operation.get("parameters", [])].count("path")


def test_answers_have_the_fields_of_their_schemas(router: Harness, document: Any) -> None:
    schemas = document["components"]["schemas"]
    answer = httpx2.post(router.url + "/v1/responses", json={"model": MODEL, "input": "hi"}).json()
    assert set(answer) == set(schemas["ResponseObject"]["properties"])
    ResponseObject.model_validate(answer)
    body = {"model": MODEL, "max_tokens": 9, "messages": HI}
    answer = httpx2.post(router.url + "/v1/messages", json=body).json()
    assert set(answer) == set(schemas["MessageObject"]["properties"])
    MessageObject.model_validate(answer)
    MessagesErrorBody.model_validate(httpx2.post(router.url + "/v1/messages", json={}).json())


def test_request_schemas_have_the_fields_that_are_honoured(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert {"input", "previous_response_id", "store", "tools", "text"} <= set(schemas["ResponsesRequest"]["properties"])
    assert {"messages", "max_tokens", "thinking", "system"} <= set(schemas["MessagesRequest"]["properties"])
    assert schemas["MessagesRequest"]["required"] == ["model", "messages", "max_tokens"]
    assert "max_tokens" not in schemas["CountTokensRequest"]["properties"]


def validator(document: Any, schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"components": document["components"], **schema})


def content(document: Any, path: str, status: int = 200, method: str = "post") -> Any:
    return document["paths"][path][method]["responses"][str(status)].get("content", {})


CALL = '<longcat_tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</longcat_tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SCORES = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
CUSTOM = {"name": "f", "input_schema": {"type": "object"}}
CHATS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("hello world", {}),
    "n": ("hello world", {"n": 3}),
    "scores": ("hello", SCORES),
    "prompt": ("hello", {"prompt_logprobs": 1}),
    "tools": (CALL, {"tools": TOOLS, **SCORES}),
    "text and tools": ("hello " + CALL, {"tools": TOOLS}),
    "reasoning": ("<longcat_think>a cat</longcat_think>hello", SCORES),
    "length": ("hello world", {"max_tokens": 1}),
    "stop": ("hello world", {"stop": "wor"}),
}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("hello world", {"prompt": "the cat"}),
    "many": ("hello", {"prompt": [[5, 6], [7]], "n": 2}),
    "scores": ("hello", {"prompt": "the cat", "logprobs": 2, "return_token_ids": True}),
    "echo": ("hello", {"prompt": "the cat", "logprobs": 1, "echo": True}),
    "prompt": ("hello", {"prompt": "the cat", "prompt_logprobs": 1}),
}
BODIES = [
    *(("/v1/chat/completions", answer, {"messages": HI} | more) for answer, more in CHATS.values()),
    *(("/v1/completions", answer, more) for answer, more in TEXTS.values()),
    ("/tokenize", "", {"prompt": "the cat", "return_token_strs": True}),
    ("/tokenize", "", {"messages": HI}),
    ("/detokenize", "", {"tokens": [5, 6]}),
    ("/v1/messages", CALL, {"messages": HI, "max_tokens": 99, "tools": [CUSTOM]}),
    ("/v1/responses", "<longcat_think>a</longcat_think>hello", {"input": "hi", "top_logprobs": 2}),
]


def scored(ids: list[int]) -> Script:
    """Answers with `ids`, after the scores of the prompt where they are asked for."""
    answer = answers_with(ids, eos=EOS)

    async def script(
        request: attention_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[attention_pb2.GenerateEvent]:
        if request.sampling.HasField("prompt_logprobs"):
            event = attention_pb2.GenerateEvent(attempt=request.attempt)
            event.prompt.extend(token(i, one, request) for i, one in enumerate(request.prompt_ids) if i)
            yield event
        async for event in answer(request, context):
            yield event

    return script


STREAMED = [one for one in BODIES if one[0].startswith("/v1") and "prompt_logprobs" not in one[2]]
CASES = [*((*one, False) for one in BODIES), *((*one, True) for one in STREAMED)]


@pytest.mark.parametrize(("path", "text", "body", "stream"), CASES)
def test_answers_fit_their_schemas(
    router: Harness, document: Any, path: str, text: str, body: dict[str, Any], stream: bool
) -> None:
    described = content(document, path)
    router.fakes[0].script = scored(router.ids(text))
    request = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    sent = {"model": MODEL, **body, **({"stream": True} if stream else {})}
    if stream and "completions" in path:
        sent["stream_options"] = {"include_usage": True, "continuous_usage_stats": "logprobs" in body}
    validator(document, request).validate(sent)
    answer = httpx2.post(router.url + path, json=sent)
    assert answer.status_code == 200
    assert ("prompt_logprobs" in answer.text) == ("prompt_logprobs" in body)
    media = answer.headers["content-type"].partition(";")[0]
    if media == "application/json":
        validator(document, described[media]["schema"]).validate(answer.json())
        return
    one_event = described[media]["itemSchema"]["properties"]["data"]
    event = validator(document, one_event.get("anyOf", [one_event])[0]["contentSchema"])
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert len(data) > 2
    for one in data:
        if one != "[DONE]":
            event.validate(json.loads(one))


@pytest.mark.parametrize("route", STATUS, ids=lambda route: route.path)
def test_answers_about_the_router_fit_their_schemas(router: Harness, document: Any, route: StatusRoute) -> None:
    answer = httpx2.get(router.admin_url + route.path.format(model_id=MODEL))
    described = content(document, route.path, answer.status_code, "get")
    media = answer.headers.get("content-type", "").partition(";")[0]
    assert (media in described) == bool(described)
    if media == "application/json":
        validator(document, described[media]["schema"]).validate(answer.json())


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_fit_their_schemas_and_are_answered(router: Harness, document: Any, path: str) -> None:
    media = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert media["examples"].keys() == EXAMPLES[path].keys()
    for example in media["examples"].values():
        validator(document, media["schema"]).validate(example["value"])
        assert httpx2.post(router.url + path, json=example["value"]).status_code == 200


def test_an_error_of_the_whole_body_begins_with_its_words(router: Harness) -> None:
    body = {"messages": HI, "stream_options": {"include_usage": True}}
    message = httpx2.post(router.url + "/v1/chat/completions", json=body).json()["error"]["message"]
    assert message.startswith("The 'stream_options' parameter")
