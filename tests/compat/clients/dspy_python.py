"""dspy, the Python package: Caracal declared as a provider, LM alone and in programs, through DSPy's own HTTP client.

The built-in model does not know the form of answer that DSPy's adapters describe. So answers that are compared with
texts come through an adapter that asks plainly; the others' form is the schema's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import litellm
import openai
from compat import features as f
from compat.features import Servers, raised
from dspy import lm15


class Plain(dspy.ChatAdapter):  # type: ignore[misc]
    """Asks with the input fields' values alone; the answer is the text as it comes."""

    def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
        return [message for message in super().format(signature, demos, inputs) if message["role"] != "system"]

    def format_user_message_content(self, signature: Any, inputs: Any, *_: Any, **__: Any) -> str:
        return "\n".join(str(inputs[name]) for name in signature.input_fields if name in inputs)

    def format_assistant_message_content(self, signature: Any, outputs: Any, *_: Any, **__: Any) -> str:
        return "\n".join(str(outputs[name]) for name in signature.output_fields if name in outputs)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return dict.fromkeys(signature.output_fields, completion)


class Parity(dspy.Signature):  # type: ignore[misc]
    """Whether the result is even."""

    question: str = dspy.InputField()
    even: bool = dspy.OutputField()


class Turn(dspy.Signature):  # type: ignore[misc]
    """A turn of a conversation with tools."""

    question: str | None = dspy.InputField()
    history: dspy.History = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    answer: str = dspy.OutputField()
    calls: dspy.ToolCalls = dspy.OutputField()


class Thought(dspy.Signature):  # type: ignore[misc]
    """An answer and what led to it."""

    question: str = dspy.InputField()
    reasoning: dspy.Reasoning = dspy.OutputField()
    answer: str = dspy.OutputField()


def lm(servers: Servers, url: str = "", model: str = "", provider: str = "caracal", **more: Any) -> Any:
    access = lm15.AccessPolicy(provider="caracal", env_keys=("CARACAL_API_KEY",), base_url=servers.v1)
    thinking = {servers.thinking_model: lm15.ModelSupport(reasoning=True)}
    lm15.register_provider(
        lm15.ProviderDefinition.chat(access, compat=lm15.OpenAIChatCompat.preset("vllm")),
        supports=lm15.ModelSupport(function_calling=True, response_schema=True), models=thinking,
    )  # fmt: skip
    settings: dict[str, Any] = {"temperature": 0, "cache": False, "num_retries": 0, "engine": "lm15"}
    name = f"{provider}/{model or servers.model}"
    return dspy.LM(name, api_base=url or servers.v1, api_key="unused", **settings | more)


def chat(servers: Servers) -> None:
    assert f.ANSWER in lm(servers)(f.QUESTION)[0]
    with dspy.context(lm=lm(servers), adapter=Plain()):
        assert f.ANSWER in dspy.Predict("question -> answer")(question=f.QUESTION).answer


def streaming(servers: Servers) -> None:
    async def received() -> list[Any]:
        program = dspy.streamify(dspy.Predict("question -> answer"))
        return [piece async for piece in program(question=f.QUESTION)]

    with dspy.context(lm=lm(servers), adapter=Plain()):
        *pieces, answer = asyncio.run(received())
    texts = [piece.choices[0].delta.content or "" for piece in pieces if getattr(piece, "choices", None)]
    assert len(texts) > 2
    assert f.ANSWER in "".join(texts)
    assert answer.answer == "".join(texts)


def tools(servers: Servers) -> None:
    tool = dspy.Tool(lambda city: f.WEATHER_RESULT, f.WEATHER, f.WEATHER_DESCRIPTION, {"city": {"type": "string"}})
    with dspy.context(lm=lm(servers), adapter=Plain(use_native_function_calling=True)):
        turn = dspy.Predict(Turn)
        calls = turn(question=f.WEATHER_QUESTION, history=dspy.History(messages=[]), tools=[tool]).calls
        assert [call.args for call in calls.tool_calls] == [{"city": f.WEATHER_CITY}]
        results = [call.execute([tool]) for call in calls.tool_calls]
        calls.tool_call_results = dspy.ToolCallResults.from_tool_calls_and_values(calls, results, [False])
        history = dspy.History(messages=[{"question": f.WEATHER_QUESTION, "calls": calls}])
        assert f.WEATHER_ANSWER in turn(history=history, tools=[tool]).answer


def forced_tool(servers: Servers) -> None:
    """After its last turn ReActV2 names its tool `submit` in `tool_choice`."""
    with dspy.context(lm=lm(servers), adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        answer = dspy.ReActV2(Parity, tools=[], max_iters=0)(question=f.QUESTION)
    assert answer.termination_reason == "forced_submit"
    assert isinstance(answer.even, bool)


def structured_output(servers: Servers) -> None:
    with dspy.context(lm=lm(servers), adapter=dspy.JSONAdapter()):
        assert isinstance(dspy.Predict(Parity)(question=f.QUESTION).even, bool)


def reasoning(servers: Servers) -> None:
    """DSPy asks with `reasoning_effort`."""
    with dspy.context(lm=lm(servers, servers.thinking_v1, servers.thinking_model), adapter=Plain()):
        answer = dspy.Predict(Thought)(question=f.QUESTION)
    assert answer.reasoning.content.strip() == f.THOUGHT
    assert answer.answer.strip() == f.THOUGHT_ANSWER


def completions(servers: Servers) -> None:
    """DSPy ends every prompt in the same words, so its answer is OpenAI's client's to that text."""
    asking = lm(servers, provider="openai", engine="auto", model_type="text", max_tokens=20)
    direct = openai.OpenAI(base_url=servers.v1, api_key="unused").completions
    for prompt in (f.COMPLETION_PROMPT, f.QUESTION):
        whole = f"{prompt}\n\nBEGIN RESPONSE:"
        wanted = direct.create(model=servers.model, prompt=whole, temperature=0, max_tokens=20).choices[0].text
        assert wanted
        assert asking(prompt) == [wanted]


def logprobs(servers: Servers) -> None:
    (answer,) = lm(servers, logprobs=True, top_logprobs=2)(f.QUESTION)
    tokens = answer["logprobs"]["content"]
    assert tokens
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in tokens)


def responses(servers: Servers) -> None:
    (answer,) = lm(servers, provider="openai", model_type="responses")(f.QUESTION)
    assert f.ANSWER in answer["text"]


def seed(servers: Servers) -> None:
    asking = lm(servers, temperature=1.5, seed=5, max_tokens=20)
    first, again = (asking("hello") for _ in range(2))
    assert first == again


def errors(servers: Servers) -> None:
    error = raised(dspy.ContextWindowExceededError, lambda: lm(servers)(f.TOO_LONG))
    assert error.status == 400
    assert "4096" in error.message


def embeddings(servers: Servers) -> None:
    """The Embedder is LiteLLM's, and so are its exceptions."""
    embedder = dspy.Embedder(f"openai/{servers.model}", api_base=servers.v1, api_key="unused", caching=False)
    assert raised(litellm.APIError, lambda: embedder(["a"])).status_code == 501
