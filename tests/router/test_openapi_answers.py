"""The OpenAPI document against what the routes answer: responses, errors and parameters have their schemas."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from support.gateway_harness import MODEL, Harness

from services.router.gateway.api_routes import ROUTES
from services.router.gateway.messages_api.objects import MessageObject, MessagesErrorBody
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
        assert ("text/event-stream" in operation["responses"].get("200", {}).get("content", {})) == (route.event is not None)
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
