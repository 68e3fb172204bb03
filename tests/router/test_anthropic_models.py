"""GET /v1/models of Anthropic's official client, which knows it from OpenAI's by a header."""

from __future__ import annotations

import anthropic
import httpx2
import pytest
from support.gateway_harness import MODEL, Harness

HEADER = {"anthropic-version": "2023-06-01"}


def test_the_official_client_lists_and_finds_the_model(router: Harness) -> None:
    client = router.anthropic()
    page = client.models.list(limit=5)
    (model,) = list(page)  # it asks for no more pages
    assert (model.id, model.display_name, model.type, model.lifecycle) == (MODEL, MODEL, "model", "active")
    assert model.created_at.year > 2000
    assert model.max_input_tokens == router.assets.max_model_len
    assert (page.first_id, page.last_id, page.has_more) == (MODEL, MODEL, False)
    assert client.models.retrieve(MODEL) == model
    assert client.messages.create(model=model.id, max_tokens=5, messages=[{"role": "user", "content": "hi"}]).content


def test_pages_beyond_the_one_model_are_empty(router: Harness) -> None:
    client = router.anthropic()
    for page in (
        client.models.list(after_id=MODEL),
        client.models.list(before_id=MODEL),
        client.models.list(lifecycle=["retired"]),
    ):
        assert (list(page), page.first_id, page.has_more) == ([], None, False)
    assert len(list(client.models.list(lifecycle=["active", "retired"]))) == 1


def test_errors_have_the_form_of_the_api(router: Harness) -> None:
    client = router.anthropic()
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        client.models.retrieve("claude-opus-5")
    for limit in (0, 1001):
        with pytest.raises(anthropic.BadRequestError, match="limit must be between 1 and 1000"):
            client.models.list(limit=limit)
    with pytest.raises(anthropic.BadRequestError, match="lifecycle must be one of"):
        client.models.list(lifecycle=["gone"])  # type: ignore[list-item]
    answer = httpx2.get(router.url + "/v1/models/x", headers=HEADER)
    assert answer.json()["request_id"] == answer.headers["request-id"]


def test_others_get_openais_form(router: Harness) -> None:
    assert httpx2.get(router.url + "/v1/models").json()["object"] == "list"
    assert "param" in httpx2.get(router.url + "/v1/models/x").json()["error"]
    # The header changes nothing where there is no such API.
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx2.post(router.url + "/v1/chat/completions", json=body, headers=HEADER)
    assert answer.json()["error"]["code"] == "model_not_found"
