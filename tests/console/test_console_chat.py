"""The chat in a real browser: streams, reasoning, tool calls, and output that would like to be HTML."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from caracal_proto import attention_pb2
from playwright.sync_api import Page, expect
from support.fake_attention import answers_with, token
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.router.gateway.sampling import choice_seed

pytestmark = pytest.mark.processes

HOSTILE = """\
<img src=x onerror="alert('img')"><script>alert('script')</script><svg onload=alert(1)></svg>
[link](javascript:alert('link')) <a href="javascript:alert('a')">a</a> <iframe srcdoc="<script>alert(2)</script>">
<style>body{display:none}</style>
```html
<img src=x onerror=alert('code')>
```
&lt;b&gt; </p></div><form action="//elsewhere"><input name=q></form>"""


def says(router: Harness, text: str, pause: float = 0.0) -> None:
    router.fakes[0].script = answers_with(router.ids(text), eos=EOS, pause=pause)


def ask(page: Page, text: str) -> None:
    page.click("#to-chat")
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.locator(".answer[aria-busy=true], .answer[aria-busy=false]").last.wait_for()


def test_an_answer_streams_and_turns_are_kept(page: Page, console_router: Harness) -> None:
    says(console_router, "hello caracal, the cat sat on the mat " * 3, pause=0.02)
    page.click("#to-chat")
    page.fill("#system", "be terse")
    page.fill("#temperature", "0.5")
    page.fill("#max-tokens", "200")
    page.fill("#seed", "7")
    ask(page, "the first question")
    answer = page.locator(".answer").first
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(answer).to_contain_text("hello")
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(answer).to_contain_text("ended by stop")
    expect(answer).to_contain_text("tokens/s")
    sampling = console_router.fakes[0].requests[-1].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.5, 200, choice_seed(7, 0))
    says(console_router, "second")
    ask(page, "the second question")
    expect(page.locator(".answer").nth(1)).to_contain_text("second")
    expect(page.locator(".answer").nth(1)).to_have_attribute("aria-busy", "false")
    prompt = console_router.assets.tokenizer.decode(list(console_router.fakes[0].requests[-1].prompt_ids))
    for part in ("SYSTEM:be terse", "USER:the first question", "ASSISTANT:hello caracal", "USER:the second question"):
        assert part in prompt
    page.click("#fresh")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_reasoning_and_tool_calls_are_shown_and_answered(page: Page, console_router: Harness) -> None:
    call = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Lyon"}}\n</longcat_tool_call>'
    says(console_router, f"<longcat_think>I look it up.</longcat_think>\nOne moment.{call}")
    page.click("#to-chat")
    page.click("#example-tool")
    ask(page, "weather?")
    answer = page.locator(".answer").first
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(answer.locator(".tool summary")).to_have_text("Tool call: get_weather")
    expect(answer.locator(".tool .text")).to_have_text('{\n  "city": "Lyon"\n}')
    reasoning = answer.locator("details.reasoning")
    expect(reasoning.locator(".text")).not_to_be_visible()
    reasoning.locator("summary").click()
    expect(reasoning.locator(".text")).to_have_text("I look it up.")
    expect(answer.locator(".content")).to_have_text("One moment.")
    says(console_router, "It is sunny.")
    page.get_by_label("Result of get_weather").first.fill("sun")
    page.click("text=Send results")
    expect(page.locator(".answer").nth(1)).to_contain_text("It is sunny.")
    prompt = console_router.assets.tokenizer.decode(list(console_router.fakes[0].requests[-1].prompt_ids))
    assert "TOOL:sun" in prompt
    assert "get_weather" in prompt


def test_stop_ends_the_answer_at_the_worker(page: Page, console_router: Harness) -> None:
    ids = console_router.ids("cat ")

    async def endless(request: attention_pb2.GenerateRequest, _: Any) -> AsyncIterator[attention_pb2.GenerateEvent]:
        for index in range(4000):
            yield attention_pb2.GenerateEvent(
                attempt=request.attempt, tokens=[token(index, ids[index % len(ids)], request)]
            )
            await asyncio.sleep(0.01)

    fake = console_router.fakes[0]
    fake.script, cancelled = endless, fake.cancelled
    ask(page, "talk")
    expect(page.locator(".answer")).to_contain_text("cat")
    page.click("#stop")
    answer = page.locator(".answer")
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(answer).to_contain_text("ended by you")
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#prompt")).to_be_focused()
    for _ in range(100):
        if fake.cancelled > cancelled:
            break
        page.wait_for_timeout(20)
    assert fake.cancelled == cancelled + 1


def test_hostile_output_stays_text(page: Page, console_router: Harness) -> None:
    says(console_router, f"<longcat_think>{HOSTILE}</longcat_think>\n{HOSTILE}")
    ask(page, HOSTILE)
    answer = page.locator(".answer")
    expect(answer).to_have_attribute("aria-busy", "false")
    for text in (answer.locator(".content").inner_text(), page.locator(".said").inner_text()):
        for part in (
            "<img src=x onerror=",
            "<script>alert('script')</script>",
            "javascript:alert('link')",
            "&lt;b&gt;",
        ):
            assert part in text
    assert answer.locator(".code").inner_text() == "<img src=x onerror=alert('code')>"
    made = page.evaluate("[...document.querySelectorAll('#conversation *')].map((e) => e.localName)")
    assert not {"img", "script", "svg", "a", "iframe", "style", "form", "input", "b"} & set(made)
    assert page.evaluate("[...document.querySelectorAll('#conversation *')].every((e) => !e.onerror && !e.onclick)")


def test_hostile_tool_calls_stay_text(page: Page, console_router: Harness) -> None:
    page.click("#to-chat")
    page.click("#example-tool")
    body = '{"name": "<img src=x onerror=alert(1)>", "arguments": {"city": "<script>alert(2)</script>"}}'
    says(console_router, f"<longcat_tool_call>\n{body}\n</longcat_tool_call>")
    ask(page, "call")
    answer = page.locator(".answer")
    expect(answer).to_have_attribute("aria-busy", "false")
    assert "<script>alert(2)</script>" in answer.inner_text()
    assert page.evaluate("document.querySelectorAll('#conversation :is(img, script)').length") == 0


def test_what_goes_wrong_is_said(page: Page, console_router: Harness) -> None:
    says(console_router, "fine")
    page.click("#to-chat")
    page.fill("#tools", "[{")
    ask(page, "hello")
    expect(page.locator(".answer .problem")).to_contain_text("the tools are not JSON")
    page.fill("#tools", "")
    page.fill("#temperature", "1")
    page.fill("#max-tokens", "90000")
    ask(page, "hello again")
    expect(page.locator(".answer").nth(1).locator(".problem")).to_contain_text("context")
    page.fill("#max-tokens", "")
    page.select_option("#thinking", "true")
    ask(page, "think")
    expect(page.locator(".answer").nth(2).locator(".problem")).to_contain_text("enable_thinking")
    page.select_option("#thinking", "")
    ask(page, "and again")
    expect(page.locator(".answer").nth(3)).to_contain_text("fine")


def test_an_answer_is_copied(page: Page, console_router: Harness) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    says(console_router, "hello <b>world</b>")
    ask(page, "copy me")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "hello <b>world</b>"
    assert page.locator("#model").inner_text() == MODEL
